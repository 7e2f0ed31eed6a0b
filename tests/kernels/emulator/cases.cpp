// Runs attention cases in the emulator: reads requests from standard input until it ends, answers each on standard
// output. A request is a Request, image_index, kv_lens, q and then k and v, or x; the answer is a status (int64), out
// and lse. With form kMerge: out1, lse1, out2, lse2 of `sequences` rows and `width` columns.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "launch.h"
#include "planner.h"
#include "primitives.cuh"

namespace {

using namespace xattn;

enum Form : std::int64_t { kKv, kAbsorbedTwo, kAbsorbedOne, kMerge };
enum Type : std::int64_t { kHalf, kBf16, kFloat };

struct Request {
  std::int64_t form, type, seed, shared_bytes_of_device;
  std::int64_t sequences, tokens, heads, images, keys, width, splits;
  double scale;
};

// A buffer of exactly its size, so that one byte past it is out of bounds, every byte 0xff (NaN in all types) at first.
template <typename T>
struct Buffer {
  std::vector<T> values;

  explicit Buffer(std::int64_t count) : values(static_cast<std::size_t>(count)) {
    if (count > 0) std::memset(values.data(), 0xff, values.size() * sizeof(T));
  }
  T* data() { return values.data(); }
  Buffer& fill() {
    if (std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) std::abort();
    return *this;
  }
  void write() const { std::fwrite(values.data(), sizeof(T), values.size(), stdout); }
};

std::vector<WorkItem> plan(const Request& request, const std::vector<std::int32_t>& image_index,
                           const std::vector<std::int32_t>& kv_lens, std::vector<std::int32_t>& order) {
  const bool kv = request.form == kKv;
  const auto tokens = static_cast<std::int32_t>(request.tokens), heads = static_cast<std::int32_t>(request.heads);
  const std::int32_t row_tile = kv ? kKvRowTile : request.form == kAbsorbedTwo ? kTwoRowTile : kOneRowTile;
  const std::int32_t key_tile = kv ? kKvKeyTile : request.form == kAbsorbedTwo ? kTwoKeyTile : kOneKeyTile;
  const PlanRequest wanted{image_index.data(), static_cast<std::int32_t>(request.sequences), kv_lens.data(),
                           kv ? tokens : heads * tokens, kv ? heads : 1, row_tile, key_tile,
                           static_cast<std::int32_t>(request.splits)};
  order = sort_by_image(wanted);
  std::vector<WorkItem> items = make_items(wanted, order);
  items.shrink_to_fit();
  return items;
}

template <typename T>
cudaError_t run_kv(const Request& request, const RowParams& rows, const void* q) {
  const std::int64_t count = request.images * request.keys * request.heads * kHeadWidth;
  Buffer<T> k(count), v(count);
  k.fill(), v.fill();
  return launch_kv<T>({rows, q, k.data(), v.data(), static_cast<std::int32_t>(request.keys)}, nullptr);
}

template <typename T>
cudaError_t run_absorbed(const Request& request, const RowParams& rows, const void* q) {
  Buffer<T> x(request.images * request.keys * request.width);
  AbsorbedParams params{};
  params.rows = rows;
  params.q = q;
  params.x = x.fill().data();
  params.keys = static_cast<std::int32_t>(request.keys);
  const int width = static_cast<int>(request.width);
  if (request.form == kAbsorbedOne) return launch_absorbed_one<T>(params, width, nullptr);
  const std::int64_t tiles = (request.keys + kTwoKeyTile - 1) / kTwoKeyTile;
  params.item_tiles = static_cast<std::int32_t>((tiles + request.splits - 1) / request.splits);
  const std::int64_t workspace_rows = std::int64_t{rows.num_items} * params.item_tiles * kTwoRowTile;
  Buffer<T> weights(workspace_rows * kTwoKeyTile);
  Buffer<float> tile_max(workspace_rows), tile_sum(2 * workspace_rows);
  params.weights = weights.data();
  params.tile_max = tile_max.data();
  params.tile_sum = tile_sum.data();
  return launch_absorbed_two<T>(params, width, nullptr);
}

template <typename T>
cudaError_t combine(const Request& request, const RowParams& rows) {
  if (request.splits == 1) return cudaSuccess;
  return launch_combine<T>({rows.partial_out, rows.partial_lse, rows.out, rows.lse,
                            request.sequences * request.tokens * request.heads,
                            static_cast<std::int32_t>(request.width), static_cast<std::int32_t>(request.splits)},
                           nullptr);
}

template <typename T>
void attend(const Request& request) {
  Buffer<std::int32_t> image_index(request.sequences), kv_lens(request.images);
  image_index.fill(), kv_lens.fill();
  std::vector<std::int32_t> order;
  const std::vector<WorkItem> items = plan(request, image_index.values, kv_lens.values, order);
  const std::int64_t count = request.sequences * request.tokens * request.heads;
  const std::int64_t partial = request.splits == 1 ? 0 : request.splits * count;
  Buffer<T> q(count * request.width), out(count * request.width);
  Buffer<float> lse(count), partial_out(partial * request.width), partial_lse(2 * partial);
  const RowParams rows{items.data(), order.data(), kv_lens.data(), out.data(), lse.data(), partial_out.data(),
                       partial_lse.data(), static_cast<std::int32_t>(items.size()),
                       static_cast<std::int32_t>(request.sequences), static_cast<std::int32_t>(request.tokens),
                       static_cast<std::int32_t>(request.heads), static_cast<std::int32_t>(request.splits),
                       static_cast<float>(request.scale * 1.4426950408889634)};
  q.fill();
  const auto run_form = request.form == kKv ? run_kv<T> : run_absorbed<T>;
  std::int64_t status = run_form(request, rows, q.data());
  if (status == cudaSuccess) status = combine<T>(request, rows);
  std::fwrite(&status, sizeof status, 1, stdout);
  out.write();
  lse.write();
}

template <typename T>
void merge(const Request& request) {
  const std::int64_t rows = request.sequences, count = rows * request.width;
  Buffer<T> out1(count), out2(count), out(count);
  Buffer<float> lse1(rows), lse2(rows), lse(rows);
  out1.fill(), lse1.fill(), out2.fill(), lse2.fill();
  const MergeParams params{out1.data(), lse1.data(), out2.data(), lse2.data(), out.data(), lse.data(), rows,
                           static_cast<std::int32_t>(request.width)};
  const std::int64_t status = launch_merge<T>(params, nullptr);
  std::fwrite(&status, sizeof status, 1, stdout);
  out.write();
  lse.write();
}

void answer(const Request& request) {
  emulator::seed = static_cast<std::uint64_t>(request.seed);
  emulator::shared_bytes_of_device = static_cast<int>(request.shared_bytes_of_device);
  const bool merging = request.form == kMerge;
  if (request.type == kFloat) return merge<float>(request);
  if (request.type == kHalf) return merging ? merge<half_t>(request) : attend<half_t>(request);
  merging ? merge<bf16_t>(request) : attend<bf16_t>(request);
}

}  // namespace

int main() {
  Request request;
  while (std::fread(&request, sizeof request, 1, stdin) == 1) {
    answer(request);
    std::fflush(stdout);
  }
  return 0;
}
