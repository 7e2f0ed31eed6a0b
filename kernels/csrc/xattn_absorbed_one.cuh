// Absorbed cross-attention in a single pass: every image row is read once, for scores and for the context.
//
// A block of eight warps takes up to 32 rows of an item, all heads mixed. Each warp owns an eighth of the width: it
// leaves that eighth's part of the scores in shared memory and keeps that eighth of the context, for all rows, in
// registers.
// Between the two, each warp adds up and weighs the scores of four rows.

#pragma once

#include "plan.h"
#include "primitives.cuh"
#include "rows.cuh"
#include "softmax.cuh"
#include "tiles.cuh"

namespace xattn {

constexpr int kOneWarps = 8;
constexpr int kOneThreads = 32 * kOneWarps;
constexpr int kOneRowTiles = kOneRowTile / 16;
constexpr int kOneWarpRows = kOneRowTile / kOneWarps;  // rows whose softmax a warp does

// How a width is cut: keys of a stage, and stages in flight.
template <int Width, int Keys, int Stages>
struct OneShape {
  static constexpr int kWidth = Width;
  static constexpr int kKeys = Keys;
  static constexpr int kStages = Stages;
  static constexpr int kWarpColumns = Width / kOneWarps;
  static constexpr int kQueryBytes = kOneRowTile * Width * 2;
  static constexpr int kStageBytes = Keys * Width * 2;
  static constexpr int kPartStride = Keys + 8;    // floats; both strides keep neighbouring rows in different banks
  static constexpr int kWeightStride = Keys + 8;  // 16-bit values
  static constexpr int kPartBytes = kOneWarps * kOneRowTile * kPartStride * 4;
  static constexpr int kWeightBytes = kOneRowTile * kWeightStride * 2;
  static constexpr int kRowBytes = kOneRowTile * 4;
  static constexpr int kSharedBytes = kQueryBytes + Stages * kStageBytes + kPartBytes + kWeightBytes + kRowBytes;
  static_assert(kSharedBytes <= 227 * 1024, "more shared memory than any device has");
};

// A block may have 227 KiB on sm_90 and sm_100, 163 KiB on sm_80: there the narrow shapes.
using OneShape384 = OneShape<384, 32, 3>;
using OneShape768 = OneShape<768, 32, 2>;
using OneShape768Narrow = OneShape<768, 16, 3>;
using OneShape1024 = OneShape<1024, 16, 3>;
using OneShape1024Narrow = OneShape<1024, 16, 2>;
static_assert(OneShape384::kSharedBytes <= 163 * 1024, "fits sm_80");
static_assert(OneShape768Narrow::kSharedBytes <= 163 * 1024, "fits sm_80");
static_assert(OneShape1024Narrow::kSharedBytes <= 163 * 1024, "fits sm_80");

// Places in a block's shared memory.
template <typename Shape>
struct OneShared {
  unsigned char* queries;
  unsigned char* stages;
  float* parts;            // of the scores: warp, row, key
  unsigned char* weights;  // row, key
  float* factors;          // row: what the context is multiplied by before this tile; at the end, the normaliser

  XATTN_DEVICE OneShared() {
    queries = dynamic_shared();
    stages = queries + Shape::kQueryBytes;
    parts = reinterpret_cast<float*>(stages + Shape::kStages * Shape::kStageBytes);
    weights = reinterpret_cast<unsigned char*>(parts) + Shape::kPartBytes;
    factors = reinterpret_cast<float*>(weights + Shape::kWeightBytes);
  }
};

// This warp's part of the scores of all rows with a tile's keys.
template <typename T, typename Shape>
XATTN_DEVICE void one_score_part(const OneShared<Shape>& shared, const unsigned char* keys) {
  constexpr int kTiles = Shape::kKeys / 8;
  float score[kOneRowTiles][kTiles][4] = {};
  XATTN_UNROLL
  for (int step = 0; step < Shape::kWarpColumns / 16; ++step) {
    const int chunk = warp_id() * (Shape::kWarpColumns / kChunk) + 2 * step;
    uint32_t a[kOneRowTiles][4];
    XATTN_UNROLL
    for (int i = 0; i < kOneRowTiles; ++i) load_a<Shape::kWidth>(a[i], shared.queries, 16 * i, chunk);
    XATTN_UNROLL
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t b0[2], b1[2];
      load_b_rows<Shape::kWidth>(b0, b1, keys, 8 * tile, chunk);
      XATTN_UNROLL
      for (int i = 0; i < kOneRowTiles; ++i) {
        mma_16816(score[i][tile], a[i], b0, T{});
        mma_16816(score[i][tile + 1], a[i], b1, T{});
      }
    }
  }
  const int first_row = warp_id() * kOneRowTile + lane_id() / 4;
  float* part = shared.parts + first_row * Shape::kPartStride + 2 * (lane_id() & 3);
  XATTN_UNROLL
  for (int i = 0; i < kOneRowTiles; ++i) {
    XATTN_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      XATTN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float(&pair)[4] = score[i][tile];
        float* to = part + (16 * i + 8 * half) * Shape::kPartStride + 8 * tile;
        store_floats(to, pair[2 * half], pair[2 * half + 1]);
      }
    }
  }
}

// Of the rows whose softmax this warp does: the running maximum, the same in all lanes that share a row, and the sums
// of a lane's own weights.
template <typename Shape>
struct OneState {
  static constexpr int kLanes = Shape::kKeys;               // that share a row
  static constexpr int kPasses = kOneWarpRows * kLanes / 32;  // rows that a lane takes part in
  float maximum[kPasses];
  RowSums sums[kPasses];

  XATTN_DEVICE OneState() {
    for (int pass = 0; pass < kPasses; ++pass) maximum[pass] = -kInfinity;
  }
  XATTN_DEVICE static int row(int pass) { return warp_id() * kOneWarpRows + pass * (32 / kLanes) + lane_id() / kLanes; }
  XATTN_DEVICE static int key() { return lane_id() % kLanes; }
};

// Adds up the parts of one score, in the order of the warps.
template <typename Shape>
XATTN_DEVICE float one_score(const OneShared<Shape>& shared, int row, int key) {
  float score = 0.0f;
  XATTN_UNROLL
  for (int warp = 0; warp < kOneWarps; ++warp) {
    score += shared.parts[(warp * kOneRowTile + row) * Shape::kPartStride + key];
  }
  return score;
}

// Weights of this warp's rows for one tile, `num_keys` of its keys being there.
template <typename T, typename Shape>
XATTN_DEVICE void one_weigh(OneState<Shape>& state, const OneShared<Shape>& shared, float scale_log2, int num_keys) {
  using State = OneState<Shape>;
  const int key = State::key();
  XATTN_UNROLL
  for (int pass = 0; pass < State::kPasses; ++pass) {
    const int row = State::row(pass);
    const float score = key < num_keys ? one_score(shared, row, key) * scale_log2 : -kInfinity;
    float highest = score;
    XATTN_UNROLL
    for (int mask = State::kLanes / 2; mask > 0; mask /= 2) highest = larger(highest, shuffle_xor(highest, mask));
    const float maximum = larger(state.maximum[pass], round_up(highest));
    const float reference = reference_of(maximum);
    const float factor = fast_exp2(state.maximum[pass] - reference);
    const float exact = fast_exp2(score - reference);
    const T weight = from_float<T>(exact);
    state.maximum[pass] = maximum;
    state.sums[pass] *= factor;
    state.sums[pass] += {to_float(weight), exact};
    reinterpret_cast<T*>(shared.weights)[row * Shape::kWeightStride + key] = weight;
    if (key == 0) shared.factors[row] = factor;
  }
}

// All rows of a warp's eighth of the context, 16 rows by 8 columns at a time.
template <typename Shape>
struct OneContext {
  static constexpr int kTiles = Shape::kWarpColumns / 8;
  float value[kOneRowTiles][kTiles][4] = {};
};

// context *= factors, where there is anything to do: maxima are whole numbers and soon stop moving.
template <typename Shape>
XATTN_DEVICE void one_rescale(OneContext<Shape>& context, const float* factors) {
  XATTN_UNROLL
  for (int i = 0; i < kOneRowTiles; ++i) {
    XATTN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float factor = factors[16 * i + 8 * half + lane_id() / 4];
      if (factor != 1.0f) {
        XATTN_UNROLL
        for (int tile = 0; tile < OneContext<Shape>::kTiles; ++tile) {
          context.value[i][tile][2 * half] *= factor;
          context.value[i][tile][2 * half + 1] *= factor;
        }
      }
    }
  }
}

// context += weights * keys, for this warp's columns.
template <typename T, typename Shape>
XATTN_DEVICE void one_mix(OneContext<Shape>& context, const OneShared<Shape>& shared, const unsigned char* keys) {
  const int lane = lane_id();
  XATTN_UNROLL
  for (int step = 0; step < Shape::kKeys / 16; ++step) {
    uint32_t a[kOneRowTiles][4];
    XATTN_UNROLL
    for (int i = 0; i < kOneRowTiles; ++i) {
      const int place = (16 * i + (lane & 15)) * Shape::kWeightStride + 16 * step + 8 * (lane >> 4);
      load_matrix_x4(a[i], shared.weights + 2 * place);
    }
    XATTN_UNROLL
    for (int tile = 0; tile < OneContext<Shape>::kTiles; tile += 2) {
      uint32_t b0[2], b1[2];
      load_b_columns<Shape::kWidth>(b0, b1, keys, 16 * step, warp_id() * (Shape::kWarpColumns / kChunk) + tile);
      XATTN_UNROLL
      for (int i = 0; i < kOneRowTiles; ++i) {
        mma_16816(context.value[i][tile], a[i], b0, T{});
        mma_16816(context.value[i][tile + 1], a[i], b1, T{});
      }
    }
  }
}

// Writes this warp's columns of the context and, for its rows, the log-sum-exp.
template <typename T, typename Shape>
XATTN_DEVICE void one_store(const RowParams& params, const WorkItem& item, const OneContext<Shape>& context,
                            const OneState<Shape>& state, const OneShared<Shape>& shared) {
  using State = OneState<Shape>;
  XATTN_UNROLL
  for (int pass = 0; pass < State::kPasses; ++pass) {
    const int row = State::row(pass);
    RowSums sums = state.sums[pass];
    XATTN_UNROLL
    for (int mask = State::kLanes / 2; mask > 0; mask /= 2) {
      sums += {shuffle_xor(sums.rounded, mask), shuffle_xor(sums.exact, mask)};
    }
    if (State::key() == 0) {
      shared.factors[row] = normalizer(sums);
      if (row < item.num_rows) {
        store_lse(params, item.split, row_offset(params, item, row), state.maximum[pass], sums);
      }
    }
  }
  sync_block();
  const int column = warp_id() * Shape::kWarpColumns + 2 * (lane_id() & 3);
  XATTN_UNROLL
  for (int i = 0; i < kOneRowTiles; ++i) {
    XATTN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * i + 8 * half + lane_id() / 4;
      if (row < item.num_rows) {
        const int64_t offset = row_offset(params, item, row);
        const float scale = shared.factors[row];
        XATTN_UNROLL
        for (int tile = 0; tile < OneContext<Shape>::kTiles; ++tile) {
          const float(&value)[4] = context.value[i][tile];
          store_pair<T>(params, item.split, offset, Shape::kWidth, column + 8 * tile, value[2 * half] * scale,
                        value[2 * half + 1] * scale);
        }
      }
    }
  }
}

// One block for each item.
template <typename T, typename Shape>
XATTN_KERNEL void XATTN_BOUNDS(kOneThreads, 1) absorbed_one_kernel(const AbsorbedParams params) {
  constexpr int kWidth = Shape::kWidth;
  const WorkItem item = load_item(params.rows, block_id_x());
  const OneShared<Shape> shared;
  const int num_keys = item.key_end - item.key_begin;
  const int num_tiles = (num_keys + Shape::kKeys - 1) / Shape::kKeys;
  const T* q = static_cast<const T*>(params.q);
  const T* x = static_cast<const T*>(params.x);
  const T* keys = x + (static_cast<int64_t>(item.image) * params.keys + item.key_begin) * kWidth;
  const auto fetch = [&](int tile) {
    if (tile < num_tiles) {
      const int key = tile * Shape::kKeys;
      unsigned char* stage = shared.stages + tile % Shape::kStages * Shape::kStageBytes;
      copy_rows<Shape::kKeys, kWidth, kOneThreads>(stage, num_keys - key, [&](int row) {
        return keys + static_cast<int64_t>(key + row) * kWidth;
      });
    }
    commit_copies();
  };
  copy_rows<kOneRowTile, kWidth, kOneThreads>(shared.queries, item.num_rows, [&](int row) {
    return q + static_cast<int64_t>(row_offset_within(params.rows, item, row)) * kWidth;
  });
  for (int tile = 0; tile < Shape::kStages - 1; ++tile) fetch(tile);

  OneState<Shape> state;
  OneContext<Shape> context;
  XATTN_ROLLED
  for (int tile = 0; tile < num_tiles; ++tile) {
    wait_copies<Shape::kStages - 2>();
    sync_block();
    fetch(tile + Shape::kStages - 1);
    const unsigned char* stage = shared.stages + tile % Shape::kStages * Shape::kStageBytes;
    one_score_part<T>(shared, stage);
    sync_block();
    one_weigh<T>(state, shared, params.rows.scale_log2, num_keys - tile * Shape::kKeys);
    sync_block();
    one_rescale(context, shared.factors);
    one_mix<T>(context, shared, stage);
  }
  wait_copies<0>();
  sync_block();
  one_store<T>(params.rows, item, context, state, shared);
}

}  // namespace xattn
