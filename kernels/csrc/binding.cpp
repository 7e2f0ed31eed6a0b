// The operators of mplug_kernels: schemas, checks and memory. The only file that sees torch, through its stable ABI.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "launch.h"
#include "planner.h"

// A torch without CUDA has no such function; nothing here calls it there.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace xattn {
using half_t = __half;
using bf16_t = __nv_bfloat16;
}  // namespace xattn

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The instance of a kernel that a tensor asks for.
enum class Kind { kHalf, kBf16, kFloat };

Kind kind_of(const Tensor& tensor, const char* name, bool float_too) {
  const ScalarType type = tensor.scalar_type();
  if (type == ScalarType::Half) return Kind::kHalf;
  if (type == ScalarType::BFloat16) return Kind::kBf16;
  STD_TORCH_CHECK(float_too && type == ScalarType::Float, name, " must be float16 or bfloat16",
                  float_too ? " or float32" : "");
  return Kind::kFloat;
}

void check_shape(const Tensor& tensor, const char* name, const std::vector<int64_t>& shape) {
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; same && i < shape.size(); ++i) same = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(same, name, " does not have the shape that the other arguments ask for");
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

// Kernels copy 16 bytes at a time.
void check_aligned(const Tensor& tensor, const char* name) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  STD_TORCH_CHECK(address % 16 == 0, name, " must start at a multiple of 16 bytes; clone() does");
}

void check_like(const Tensor& tensor, const char* name, const Tensor& first, ScalarType type) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " is not of the right type");
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == first.get_device_index(), name,
                  " must be on the device of the first argument");
}

void check_launch(cudaError_t error, const char* name) {
  STD_TORCH_CHECK(error == cudaSuccess, name, ": ", cudaGetErrorString(error));
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch was built without CUDA");
  aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream);
  return static_cast<cudaStream_t>(stream);
}

int32_t narrow(int64_t value, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value <= std::numeric_limits<int32_t>::max(), name, " is out of range: ", value);
  return static_cast<int32_t>(value);
}

// Results of an operator and, with more than one split, the partial results they are combined from.
struct Results {
  Tensor out;
  Tensor lse;
  std::optional<Tensor> partial_out;
  std::optional<Tensor> partial_lse;

  Results(const Tensor& q, int64_t splits)
      : out(torch::stable::empty_like(q)), lse(new_floats(q, {q.size(0), q.size(1), q.size(2)})) {
    if (splits == 1) return;
    partial_out = new_floats(q, {splits, q.size(0), q.size(1), q.size(2), q.size(3)});
    partial_lse = new_floats(q, {splits, q.size(0), q.size(1), q.size(2), 2});
  }

  static Tensor new_floats(const Tensor& like, const std::vector<int64_t>& shape) {
    return torch::stable::new_empty(like, shape, ScalarType::Float);
  }
};

// Checks what all attention operators share, and fills it in.
xattn::RowParams row_params(const Tensor& q, const Tensor& pool, const Tensor& items, const Tensor& row_sequence,
                            const Tensor& kv_lens, double scale, int64_t splits, Results& results) {
  STD_TORCH_CHECK(splits >= 1 && splits <= 1024, "splits must be 1 to 1024, not ", splits);
  check_shape(q, "q", {q.size(0), q.size(1), q.size(2), q.size(3)});
  check_shape(items, "items", {items.size(0), xattn::kItemFields});
  check_shape(row_sequence, "row_sequence", {q.size(0)});
  check_shape(kv_lens, "kv_lens", {pool.size(0)});
  check_like(items, "items", q, ScalarType::Int);
  check_like(row_sequence, "row_sequence", q, ScalarType::Int);
  check_like(kv_lens, "kv_lens", q, ScalarType::Int);
  narrow(q.size(0) * q.size(1) * q.size(2), "the number of rows");
  xattn::RowParams params{};
  params.items = static_cast<const xattn::WorkItem*>(items.const_data_ptr());
  params.row_sequence = static_cast<const int32_t*>(row_sequence.const_data_ptr());
  params.kv_lens = static_cast<const int32_t*>(kv_lens.const_data_ptr());
  params.out = results.out.mutable_data_ptr();
  params.lse = static_cast<float*>(results.lse.mutable_data_ptr());
  if (splits > 1) {
    params.partial_out = static_cast<float*>(results.partial_out->mutable_data_ptr());
    params.partial_lse = static_cast<float*>(results.partial_lse->mutable_data_ptr());
  }
  params.num_items = narrow(items.size(0), "the number of items");
  params.sequences = narrow(q.size(0), "the number of sequences");
  params.tokens = narrow(q.size(1), "the number of tokens");
  params.heads = narrow(q.size(2), "the number of heads");
  params.splits = narrow(splits, "splits");
  params.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  return params;
}

// Joins the splits of an attention operator.
std::tuple<Tensor, Tensor> finish(const Results& results, Kind kind, int64_t splits, cudaStream_t stream) {
  if (splits > 1) {
    xattn::CombineParams params{};
    params.partial_out = static_cast<const float*>(results.partial_out->const_data_ptr());
    params.partial_lse = static_cast<const float*>(results.partial_lse->const_data_ptr());
    params.out = results.out.mutable_data_ptr();
    params.lse = static_cast<float*>(results.lse.mutable_data_ptr());
    params.rows = results.lse.numel();
    params.width = narrow(results.out.size(3), "the width");
    params.parts = static_cast<int32_t>(splits);
    check_launch(kind == Kind::kHalf ? xattn::launch_combine<xattn::half_t>(params, stream)
                                     : xattn::launch_combine<xattn::bf16_t>(params, stream),
                 "combining splits");
  }
  return {results.out, results.lse};
}

std::tuple<Tensor, Tensor> xattn_kv(Tensor q, Tensor k, Tensor v, Tensor items, Tensor row_sequence, Tensor kv_lens,
                                    double scale, int64_t splits) {
  STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4, "q must be (S, L, H, 64), k and v (I, N, H, 64)");
  STD_TORCH_CHECK(q.size(3) == xattn::kHeadWidth, "heads must be 64 wide, not ", q.size(3));
  const Kind kind = kind_of(q, "q", false);
  check_shape(k, "k", {k.size(0), k.size(1), q.size(2), q.size(3)});
  check_shape(v, "v", {k.size(0), k.size(1), q.size(2), q.size(3)});
  check_like(k, "k", q, q.scalar_type());
  check_like(v, "v", q, q.scalar_type());
  check_aligned(q, "q");
  check_aligned(k, "k");
  check_aligned(v, "v");
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  Results results(q, splits);
  xattn::KvParams params{};
  params.rows = row_params(q, k, items, row_sequence, kv_lens, scale, splits, results);
  params.q = q.const_data_ptr();
  params.k = k.const_data_ptr();
  params.v = v.const_data_ptr();
  params.keys = narrow(k.size(1), "the number of keys");
  const cudaStream_t stream = current_stream(q);
  check_launch(kind == Kind::kHalf ? xattn::launch_kv<xattn::half_t>(params, stream)
                                   : xattn::launch_kv<xattn::bf16_t>(params, stream),
               "xattn_kv");
  return finish(results, kind, splits, stream);
}

// Memory between the two products; lives until the launches are queued, which is enough for torch's allocator.
struct TwoWorkspace {
  Tensor weights;
  Tensor statistics;

  TwoWorkspace(const Tensor& q, xattn::AbsorbedParams& params, int64_t splits)
      : weights(torch::stable::new_empty(q, std::vector<int64_t>{rows(params, splits), xattn::kTwoKeyTile})),
        statistics(Results::new_floats(q, {3, rows(params, splits)})) {
    params.weights = weights.mutable_data_ptr();
    params.tile_max = static_cast<float*>(statistics.mutable_data_ptr());
    params.tile_sum = params.tile_max + statistics.size(1);
  }

  // Rows of all tiles of all items; sets how many tiles an item may have.
  static int64_t rows(xattn::AbsorbedParams& params, int64_t splits) {
    const int64_t tiles = (params.keys + xattn::kTwoKeyTile - 1) / xattn::kTwoKeyTile;
    params.item_tiles = static_cast<int32_t>((tiles + splits - 1) / splits);
    return static_cast<int64_t>(params.rows.num_items) * params.item_tiles * xattn::kTwoRowTile;
  }
};

cudaError_t launch_absorbed(const xattn::AbsorbedParams& params, Kind kind, int64_t form, int width,
                            cudaStream_t stream) {
  if (form == 0) {
    return kind == Kind::kHalf ? xattn::launch_absorbed_two<xattn::half_t>(params, width, stream)
                               : xattn::launch_absorbed_two<xattn::bf16_t>(params, width, stream);
  }
  return kind == Kind::kHalf ? xattn::launch_absorbed_one<xattn::half_t>(params, width, stream)
                             : xattn::launch_absorbed_one<xattn::bf16_t>(params, width, stream);
}

std::tuple<Tensor, Tensor> xattn_absorbed(Tensor q, Tensor x, Tensor items, Tensor row_sequence, Tensor kv_lens,
                                          double scale, int64_t splits, int64_t form) {
  STD_TORCH_CHECK(q.dim() == 4 && x.dim() == 3, "q must be (S, L, H, D), x (I, N, D)");
  STD_TORCH_CHECK(form == 0 || form == 1, "form must be 0 (two products) or 1 (single pass), not ", form);
  const Kind kind = kind_of(q, "q", false);
  const int32_t width = narrow(q.size(3), "the width");
  STD_TORCH_CHECK(width == 384 || width == 768 || width == 1024, "the width must be 384, 768 or 1024, not ", width);
  check_shape(x, "x", {x.size(0), x.size(1), q.size(3)});
  check_like(x, "x", q, q.scalar_type());
  check_aligned(q, "q");
  check_aligned(x, "x");
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  Results results(q, splits);
  xattn::AbsorbedParams params{};
  params.rows = row_params(q, x, items, row_sequence, kv_lens, scale, splits, results);
  params.q = q.const_data_ptr();
  params.x = x.const_data_ptr();
  params.keys = narrow(x.size(1), "the number of keys");
  std::optional<TwoWorkspace> workspace;
  if (form == 0) workspace.emplace(q, params, splits);
  const cudaStream_t stream = current_stream(q);
  check_launch(launch_absorbed(params, kind, form, width, stream), "xattn_absorbed");
  return finish(results, kind, splits, stream);
}

std::tuple<Tensor, Tensor> merge_states(Tensor out1, Tensor lse1, Tensor out2, Tensor lse2) {
  STD_TORCH_CHECK(out1.dim() >= 1, "out1 must have a dimension");
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < out1.dim(); ++i) shape.push_back(out1.size(i));
  const Kind kind = kind_of(out1, "out1", true);
  check_shape(out1, "out1", shape);
  check_shape(out2, "out2", shape);
  check_like(out2, "out2", out1, out1.scalar_type());
  shape.pop_back();
  for (const Tensor& lse : {lse1, lse2}) {
    check_shape(lse, "lse", shape);
    check_like(lse, "lse", out1, ScalarType::Float);
  }
  const torch::stable::accelerator::DeviceGuard guard(out1.get_device_index());
  const Tensor out = torch::stable::empty_like(out1);
  const Tensor lse = torch::stable::empty_like(lse1);
  const xattn::MergeParams params{out1.const_data_ptr(),
                                  static_cast<const float*>(lse1.const_data_ptr()),
                                  out2.const_data_ptr(),
                                  static_cast<const float*>(lse2.const_data_ptr()),
                                  out.mutable_data_ptr(),
                                  static_cast<float*>(lse.mutable_data_ptr()),
                                  lse1.numel(),
                                  narrow(out1.size(out1.dim() - 1), "the width")};
  const cudaStream_t stream = current_stream(out1);
  cudaError_t error = cudaSuccess;
  if (kind == Kind::kHalf) error = xattn::launch_merge<xattn::half_t>(params, stream);
  if (kind == Kind::kBf16) error = xattn::launch_merge<xattn::bf16_t>(params, stream);
  if (kind == Kind::kFloat) error = xattn::launch_merge<float>(params, stream);
  check_launch(error, "merge_states");
  return {out, lse};
}

std::tuple<Tensor, Tensor> xattn_plan(Tensor image_index, Tensor kv_lens, int64_t tokens, int64_t heads,
                                      int64_t row_tile, int64_t key_tile, int64_t splits) {
  check_shape(image_index, "image_index", {image_index.size(0)});
  check_shape(kv_lens, "kv_lens", {kv_lens.size(0)});
  STD_TORCH_CHECK(image_index.scalar_type() == ScalarType::Int && kv_lens.scalar_type() == ScalarType::Int,
                  "image_index and kv_lens must be int32");
  for (const int64_t value : {tokens, heads, row_tile, key_tile, splits}) {
    STD_TORCH_CHECK(value >= 1, "tokens, heads, row_tile, key_tile and splits must be at least 1");
  }
  const xattn::PlanRequest request{static_cast<const int32_t*>(image_index.const_data_ptr()),
                                   narrow(image_index.size(0), "the number of sequences"),
                                   static_cast<const int32_t*>(kv_lens.const_data_ptr()),
                                   narrow(tokens, "tokens"),
                                   narrow(heads, "heads"),
                                   narrow(row_tile, "row_tile"),
                                   narrow(key_tile, "key_tile"),
                                   narrow(splits, "splits")};
  for (int64_t i = 0; i < request.sequences; ++i) {
    const int32_t image = request.image_index[i];
    STD_TORCH_CHECK(image >= 0 && image < kv_lens.size(0), "image_index[", i, "] is ", image, "; there are ",
                    kv_lens.size(0), " images");
    STD_TORCH_CHECK(request.kv_lens[image] >= 0, "kv_lens[", image, "] is ", request.kv_lens[image]);
  }
  const std::vector<int32_t> order = xattn::sort_by_image(request);
  const std::vector<xattn::WorkItem> items = xattn::make_items(request, order);
  const std::vector<int64_t> shape{static_cast<int64_t>(items.size()), xattn::kItemFields};
  const Tensor items_out = torch::stable::new_empty(image_index, shape);
  const Tensor order_out = torch::stable::empty_like(image_index);
  std::copy(items.begin(), items.end(), static_cast<xattn::WorkItem*>(items_out.mutable_data_ptr()));
  std::copy(order.begin(), order.end(), static_cast<int32_t*>(order_out.mutable_data_ptr()));
  return {items_out, order_out};
}

}  // namespace

STABLE_TORCH_LIBRARY(mplug_kernels, library) {
  library.def(
      "xattn_kv(Tensor q_SLHK, Tensor k_INHK, Tensor v_INHK, Tensor items, Tensor row_sequence, Tensor kv_lens, "
      "float scale, int splits) -> (Tensor out_SLHK, Tensor lse_SLH)");
  library.def(
      "xattn_absorbed(Tensor q_SLHD, Tensor x_IND, Tensor items, Tensor row_sequence, Tensor kv_lens, "
      "float scale, int splits, int form) -> (Tensor context_SLHD, Tensor lse_SLH)");
  library.def("merge_states(Tensor out1, Tensor lse1, Tensor out2, Tensor lse2) -> (Tensor out, Tensor lse)");
  library.def(
      "xattn_plan(Tensor image_index, Tensor kv_lens, int tokens, int heads, int row_tile, int key_tile, int splits) "
      "-> (Tensor items, Tensor row_sequence)");
}

STABLE_TORCH_LIBRARY_IMPL(mplug_kernels, CUDA, library) {
  library.impl("xattn_kv", TORCH_BOX(&xattn_kv));
  library.impl("xattn_absorbed", TORCH_BOX(&xattn_absorbed));
  library.impl("merge_states", TORCH_BOX(&merge_states));
}

STABLE_TORCH_LIBRARY_IMPL(mplug_kernels, CPU, library) { library.impl("xattn_plan", TORCH_BOX(&xattn_plan)); }
