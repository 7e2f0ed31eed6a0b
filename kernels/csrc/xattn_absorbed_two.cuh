// Absorbed cross-attention as two matrix products with statistics between them.
//
// `absorbed_scores` multiplies queries by image rows, a block for 128 keys of an item, and leaves weights relative to
// the tile's own maximum with that maximum and their sum. `absorbed_mix` multiplies weights by image rows, a block for
// 128 columns of an item, and on the way brings every tile to the item's maximum: powers of two (see softmax.cuh).
// Items of at most 64 rows take a path of half the height.

#pragma once

#include "plan.h"
#include "primitives.cuh"
#include "rows.cuh"
#include "softmax.cuh"
#include "tiles.cuh"

namespace xattn {

constexpr int kTwoThreads = 128;
constexpr int kTwoStages = 3;
constexpr int kTwoDepth = 64;     // of the reduced dimension, per stage
constexpr int kTwoColumns = 128;  // of the image's rows, per block of the second product
constexpr int kTwoRowWarps = 2;   // warps over rows, and over keys or columns
constexpr int kTwoColumnWarps = 2;
constexpr int kTwoColumnTiles = kTwoColumns / kTwoColumnWarps / 8;  // of a warp, each 8 wide
constexpr int kTwoOperandBytes = kTwoRowTile * kTwoDepth * 2;
constexpr int kTwoStageBytes = 2 * kTwoOperandBytes;
constexpr int kTwoTableBytes = kTwoRowTile * 4;  // one float or int for each row
constexpr int kTwoSharedBytes = kTwoStages * (kTwoStageBytes + kTwoTableBytes) + kTwoTableBytes * (1 + kTwoColumnWarps);
static_assert(2 * kTwoColumnWarps <= kTwoStages + 1 + kTwoColumnWarps, "sums of all column warps fit in the tables");

// An accumulator of a warp: 16 * RowTiles rows, half of the keys or columns.
template <int RowTiles>
struct TwoTile {
  float value[RowTiles][kTwoColumnTiles][4] = {};
};

// Rows of a thread within its block's tile, for the first and the second half of a 16-row fragment.
template <int RowTiles>
XATTN_DEVICE int two_row(int tile, int half) {
  return (warp_id() / kTwoColumnWarps * RowTiles + tile) * 16 + 8 * half + lane_id() / 4;
}

XATTN_DEVICE int two_column_warp() { return warp_id() % kTwoColumnWarps; }

template <typename T, int RowTiles>
XATTN_DEVICE void two_multiply(TwoTile<RowTiles>& sum, const uint32_t (&a)[RowTiles][4], int column,
                               const uint32_t (&b0)[2], const uint32_t (&b1)[2]) {
  XATTN_UNROLL
  for (int tile = 0; tile < RowTiles; ++tile) {
    mma_16816(sum.value[tile][column], a[tile], b0, T{});
    mma_16816(sum.value[tile][column + 1], a[tile], b1, T{});
  }
}

// ---------------------------------------------------------------------------------------------- first product

// sum += queries keys^T for one stage, both 64 deep.
template <typename T, int RowTiles>
XATTN_DEVICE void two_score_stage(TwoTile<RowTiles>& sum, const unsigned char* queries, const unsigned char* keys) {
  XATTN_UNROLL
  for (int step = 0; step < kTwoDepth / 16; ++step) {
    uint32_t a[RowTiles][4];
    XATTN_UNROLL
    for (int tile = 0; tile < RowTiles; ++tile) {
      load_a<kTwoDepth>(a[tile], queries, (warp_id() / kTwoColumnWarps * RowTiles + tile) * 16, 2 * step);
    }
    XATTN_UNROLL
    for (int column = 0; column < kTwoColumnTiles; column += 2) {
      uint32_t b0[2], b1[2];
      load_b_rows<kTwoDepth>(b0, b1, keys, two_column_warp() * 8 * kTwoColumnTiles + 8 * column, 2 * step);
      two_multiply<T>(sum, a, column, b0, b1);
    }
  }
}

// Every row's maximum over the tile, rounded up. `shared`: kTwoColumnWarps rows of kTwoRowTile.
template <int RowTiles>
XATTN_DEVICE void two_tile_maximum(float (&maximum)[RowTiles][2], const TwoTile<RowTiles>& score, float* shared) {
  XATTN_UNROLL
  for (int tile = 0; tile < RowTiles; ++tile) {
    XATTN_UNROLL
    for (int half = 0; half < 2; ++half) {
      float highest = -kInfinity;
      XATTN_UNROLL
      for (int column = 0; column < kTwoColumnTiles; ++column) {
        const float(&value)[4] = score.value[tile][column];
        highest = larger(highest, larger(value[2 * half], value[2 * half + 1]));
      }
      highest = quad_maximum(highest);
      if ((lane_id() & 3) == 0) shared[two_column_warp() * kTwoRowTile + two_row<RowTiles>(tile, half)] = highest;
    }
  }
  sync_block();
  XATTN_UNROLL
  for (int tile = 0; tile < RowTiles; ++tile) {
    XATTN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = two_row<RowTiles>(tile, half);
      float highest = shared[row];
      for (int warp = 1; warp < kTwoColumnWarps; ++warp) highest = larger(highest, shared[warp * kTwoRowTile + row]);
      maximum[tile][half] = round_up(highest);
    }
  }
  sync_block();
}

// Weights into a shared tile of kTwoKeyTile columns; their sums over this warp's keys into `shared`, the rounded before
// all the exact.
template <typename T, int RowTiles>
XATTN_DEVICE void two_weigh(const TwoTile<RowTiles>& score, const float (&maximum)[RowTiles][2], unsigned char* weights,
                            float* shared) {
  XATTN_UNROLL
  for (int tile = 0; tile < RowTiles; ++tile) {
    XATTN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = two_row<RowTiles>(tile, half);
      const float reference = reference_of(maximum[tile][half]);
      RowSums sums;
      XATTN_UNROLL
      for (int column = 0; column < kTwoColumnTiles; ++column) {
        const float(&value)[4] = score.value[tile][column];
        const uint32_t pair = weigh_pair<T>(value[2 * half], value[2 * half + 1], reference, sums);
        unsigned char* chunk = weights + chunk_at<kTwoKeyTile>(row, two_column_warp() * kTwoColumnTiles + column);
        reinterpret_cast<uint32_t*>(chunk)[lane_id() & 3] = pair;
      }
      sums = quad_sum(sums);
      if ((lane_id() & 3) == 0) {
        shared[two_column_warp() * kTwoRowTile + row] = sums.rounded;
        shared[(kTwoColumnWarps + two_column_warp()) * kTwoRowTile + row] = sums.exact;
      }
    }
  }
}

// Where the weights of an item's tiles lie.
template <typename T>
XATTN_DEVICE T* two_weights(const AbsorbedParams& params, int item, int tile) {
  const int64_t place = static_cast<int64_t>(item) * params.item_tiles + tile;
  return static_cast<T*>(params.weights) + place * (kTwoRowTile * kTwoKeyTile);
}

template <typename T, int RowTiles>
XATTN_DEVICE void two_finish_scores(const AbsorbedParams& params, int index, int tile, const TwoTile<RowTiles>& score) {
  constexpr int kRows = 16 * kTwoRowWarps * RowTiles;
  unsigned char* weights = dynamic_shared();
  float* shared = reinterpret_cast<float*>(dynamic_shared() + kTwoStages * kTwoStageBytes);
  float maximum[RowTiles][2];
  two_tile_maximum(maximum, score, shared);
  two_weigh<T>(score, maximum, weights, shared);
  const int64_t statistics = (static_cast<int64_t>(index) * params.item_tiles + tile) * kTwoRowTile;
  if (two_column_warp() == 0 && (lane_id() & 3) == 0) {
    XATTN_UNROLL
    for (int i = 0; i < 2 * RowTiles; ++i) {
      params.tile_max[statistics + two_row<RowTiles>(i / 2, i & 1)] = maximum[i / 2][i & 1];
    }
  }
  sync_block();
  for (int piece = thread_id(); piece < 2 * kRows; piece += kTwoThreads) {
    const int kind = piece / kRows, row = piece % kRows;
    const float* sums = shared + kind * kTwoColumnWarps * kTwoRowTile + row;
    float sum = sums[0];
    for (int warp = 1; warp < kTwoColumnWarps; ++warp) sum += sums[warp * kTwoRowTile];
    params.tile_sum[2 * statistics + kind * kTwoRowTile + row] = sum;
  }
  constexpr int kChunks = kTwoKeyTile / kChunk;
  for (int piece = thread_id(); piece < kRows * kChunks; piece += kTwoThreads) {
    const int row = piece / kChunks;
    const int chunk = piece % kChunks;
    const Vec16 value = *reinterpret_cast<const Vec16*>(weights + chunk_at<kTwoKeyTile>(row, chunk));
    store_global_16(two_weights<T>(params, index, tile) + row * kTwoKeyTile + chunk * kChunk, value);
  }
}

template <typename T, int Width, int RowTiles>
XATTN_DEVICE void two_scores_block(const AbsorbedParams& params, const WorkItem& item, int index, int tile) {
  constexpr int kRows = 16 * kTwoRowWarps * RowTiles;
  constexpr int kSteps = Width / kTwoDepth;
  unsigned char* stages = dynamic_shared();
  int* offsets = reinterpret_cast<int*>(stages + kTwoStages * kTwoStageBytes);
  const int first_key = item.key_begin + tile * kTwoKeyTile;
  for (int row = thread_id(); row < kRows; row += kTwoThreads) {
    offsets[row] = row_offset_within(params.rows, item, row);
  }
  sync_block();
  const T* q = static_cast<const T*>(params.q);
  const T* x = static_cast<const T*>(params.x);
  const T* keys = x + (static_cast<int64_t>(item.image) * params.keys + first_key) * Width;
  const auto fetch = [&](int step) {
    unsigned char* stage = stages + step % kTwoStages * kTwoStageBytes;
    if (step < kSteps) {
      const int column = step * kTwoDepth;
      copy_rows<kRows, kTwoDepth, kTwoThreads>(stage, item.num_rows, [&](int row) {
        return q + static_cast<int64_t>(offsets[row]) * Width + column;
      });
      copy_rows<kTwoKeyTile, kTwoDepth, kTwoThreads>(stage + kTwoOperandBytes, item.key_end - first_key,
                                                     [&](int row) { return keys + row * Width + column; });
    }
    commit_copies();
  };
  for (int step = 0; step < kTwoStages - 1; ++step) fetch(step);
  TwoTile<RowTiles> score;
  XATTN_ROLLED
  for (int step = 0; step < kSteps; ++step) {
    wait_copies<kTwoStages - 2>();
    sync_block();
    fetch(step + kTwoStages - 1);
    const unsigned char* stage = stages + step % kTwoStages * kTwoStageBytes;
    two_score_stage<T>(score, stage, stage + kTwoOperandBytes);
  }
  wait_copies<0>();
  sync_block();
  XATTN_UNROLL
  for (int i = 0; i < RowTiles; ++i) {
    const int warp_key = first_key + two_column_warp() * 8 * kTwoColumnTiles;
    scale_and_mask(score.value[i], params.rows.scale_log2, warp_key, item.key_end);
  }
  two_finish_scores<T>(params, index, tile, score);
}

// One block for each key tile of each item.
template <typename T, int Width>
XATTN_KERNEL void XATTN_BOUNDS(kTwoThreads, 2) absorbed_scores_kernel(const AbsorbedParams params) {
  const int index = block_id_x() / params.item_tiles;
  const int tile = block_id_x() - index * params.item_tiles;
  const WorkItem item = load_item(params.rows, index);
  if (item.key_begin + tile * kTwoKeyTile >= item.key_end) return;
  if (item.num_rows <= kTwoRowTile / 2) {
    two_scores_block<T, Width, 2>(params, item, index, tile);
  } else {
    two_scores_block<T, Width, 4>(params, item, index, tile);
  }
}

// --------------------------------------------------------------------------------------------- second product

// Takes the maximum and the sums of other weights of the same row into its own.
XATTN_DEVICE void two_join(float& maximum, RowSums& sums, float other_maximum, RowSums other_sums) {
  const float highest = larger(maximum, other_maximum);
  sums *= fast_exp2(maximum - reference_of(highest));
  other_sums *= fast_exp2(other_maximum - reference_of(highest));
  sums += other_sums;
  maximum = highest;
}

// The item's maximum and, brought to it, its sums of weights for each of Rows rows; in shared memory.
template <int Rows>
XATTN_DEVICE void two_item_statistics(const AbsorbedParams& params, int index, int num_tiles, float* maxima,
                                      RowSums* sums) {
  constexpr int kLanes = kTwoThreads / Rows;  // that share out the tiles of a row
  const int row = thread_id() / kLanes;
  const int64_t first = static_cast<int64_t>(index) * params.item_tiles * kTwoRowTile;
  const float* tile_max = params.tile_max + first + row;
  const float* tile_sum = params.tile_sum + 2 * first + row;
  float highest = -kInfinity;
  RowSums sum;
  XATTN_UNROLL_BY(4)
  for (int tile = thread_id() % kLanes; tile < num_tiles; tile += kLanes) {
    const float* pair = tile_sum + 2 * tile * kTwoRowTile;
    two_join(highest, sum, tile_max[tile * kTwoRowTile], {pair[0], pair[kTwoRowTile]});
  }
  XATTN_UNROLL
  for (int mask = 1; mask < kLanes; mask *= 2) {
    const float other = shuffle_xor(highest, mask);
    two_join(highest, sum, other, {shuffle_xor(sum.rounded, mask), shuffle_xor(sum.exact, mask)});
  }
  if (thread_id() % kLanes == 0) {
    maxima[row] = highest;
    sums[row] = sum;
  }
}

// For each of a thread's rows, what brings a tile's weights to the item's maximum, twice in a word.
template <typename T, int RowTiles>
XATTN_DEVICE void two_factors(uint32_t (&factor)[RowTiles][2], const float* tile_max, const float* maxima) {
  XATTN_UNROLL
  for (int tile = 0; tile < RowTiles; ++tile) {
    XATTN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = two_row<RowTiles>(tile, half);
      const float value = fast_exp2(tile_max[row] - reference_of(maxima[row]));
      factor[tile][half] = pack2(value, value, T{});
    }
  }
}

// sum += factor * weights * rows for one stage of 64 keys.
template <typename T, int RowTiles>
XATTN_DEVICE void two_mix_stage(TwoTile<RowTiles>& sum, const uint32_t (&factor)[RowTiles][2],
                                const unsigned char* weights, const unsigned char* keys) {
  XATTN_UNROLL_BY(2)
  for (int step = 0; step < kTwoDepth / 16; ++step) {
    uint32_t a[RowTiles][4];
    XATTN_UNROLL
    for (int tile = 0; tile < RowTiles; ++tile) {
      load_a<kTwoDepth>(a[tile], weights, (warp_id() / kTwoColumnWarps * RowTiles + tile) * 16, 2 * step);
      XATTN_UNROLL
      for (int i = 0; i < 4; ++i) a[tile][i] = multiply2(a[tile][i], factor[tile][i & 1], T{});
    }
    XATTN_UNROLL
    for (int column = 0; column < kTwoColumnTiles; column += 2) {
      uint32_t b0[2], b1[2];
      load_b_columns<kTwoColumns>(b0, b1, keys, step * 16, two_column_warp() * kTwoColumnTiles + column);
      two_multiply<T>(sum, a, column, b0, b1);
    }
  }
}

// Writes a warp's part of the context, normalised.
template <typename T, int Width, int RowTiles>
XATTN_DEVICE void two_store(const RowParams& params, const WorkItem& item, const TwoTile<RowTiles>& context,
                            const RowSums* sums, int first_column) {
  const int column = first_column + two_column_warp() * 8 * kTwoColumnTiles + 2 * (lane_id() & 3);
  XATTN_UNROLL
  for (int i = 0; i < 2 * RowTiles; ++i) {
    const int tile = i / 2, half = i & 1;
    const int row = two_row<RowTiles>(tile, half);
    if (row < item.num_rows) {
      const int64_t offset = row_offset(params, item, row);
      const float scale = normalizer(sums[row]);
      XATTN_UNROLL
      for (int j = 0; j < kTwoColumnTiles; ++j) {
        const float(&value)[4] = context.value[tile][j];
        store_pair<T>(params, item.split, offset, Width, column + 8 * j, value[2 * half] * scale,
                      value[2 * half + 1] * scale);
      }
    }
  }
}

template <typename T, int Width, int RowTiles>
XATTN_DEVICE void two_mix_block(const AbsorbedParams& params, const WorkItem& item, int index, int first_column) {
  constexpr int kRows = 16 * kTwoRowWarps * RowTiles;
  constexpr int kStride = kTwoStageBytes + kTwoTableBytes;
  unsigned char* stages = dynamic_shared();
  float* maxima = reinterpret_cast<float*>(stages + kTwoStages * kStride);
  RowSums* sums = reinterpret_cast<RowSums*>(maxima + kTwoRowTile);
  const int num_keys = item.key_end > item.key_begin ? item.key_end - item.key_begin : 0;
  const int num_steps = (num_keys + kTwoDepth - 1) / kTwoDepth;
  const T* x = static_cast<const T*>(params.x);
  const T* keys = x + (static_cast<int64_t>(item.image) * params.keys + item.key_begin) * Width + first_column;
  const T* weights = two_weights<T>(params, index, 0);
  const float* tile_max = params.tile_max + static_cast<int64_t>(index) * params.item_tiles * kTwoRowTile;
  const auto fetch = [&](int step) {
    unsigned char* stage = stages + step % kTwoStages * kStride;
    if (step < num_steps) {
      const int key = step * kTwoDepth;
      const T* tile = weights + int64_t{key / kTwoKeyTile} * (kTwoRowTile * kTwoKeyTile) + key % kTwoKeyTile;
      copy_rows_one_by_one<kRows, kTwoDepth, kTwoThreads>(stage, kRows,
                                                          [&](int row) { return tile + row * kTwoKeyTile; });
      const T* first = keys + static_cast<int64_t>(key) * Width;
      copy_rows<kTwoDepth, kTwoColumns, kTwoThreads>(stage + kTwoOperandBytes, num_keys - key,
                                                     [&](int row) { return first + row * Width; });
      const int piece = thread_id();
      if (piece < kRows / 4) {
        const float* from = tile_max + key / kTwoKeyTile * kTwoRowTile + 4 * piece;
        copy_async_16(stage + kTwoStageBytes + 16 * piece, from, true);
      }
    }
    commit_copies();
  };
  for (int step = 0; step < kTwoStages - 1; ++step) fetch(step);
  two_item_statistics<kRows>(params, index, (num_keys + kTwoKeyTile - 1) / kTwoKeyTile, maxima, sums);
  TwoTile<RowTiles> context;
  XATTN_ROLLED
  for (int step = 0; step < num_steps; ++step) {
    wait_copies<kTwoStages - 2>();
    sync_block();
    fetch(step + kTwoStages - 1);
    const unsigned char* stage = stages + step % kTwoStages * kStride;
    uint32_t factor[RowTiles][2];
    two_factors<T>(factor, reinterpret_cast<const float*>(stage + kTwoStageBytes), maxima);
    two_mix_stage<T>(context, factor, stage, stage + kTwoOperandBytes);
  }
  wait_copies<0>();
  sync_block();
  // The item is loaded again rather than held in registers through the loop.
  const WorkItem again = load_item(params.rows, index);
  two_store<T, Width>(params.rows, again, context, sums, first_column);
  for (int row = thread_id(); first_column == 0 && row < again.num_rows; row += kTwoThreads) {
    store_lse(params.rows, again.split, row_offset(params.rows, again, row), maxima[row], sums[row]);
  }
}

// One block for each kTwoColumns columns of each item.
template <typename T, int Width>
XATTN_KERNEL void XATTN_BOUNDS(kTwoThreads, 2) absorbed_mix_kernel(const AbsorbedParams params) {
  constexpr int kBlocks = Width / kTwoColumns;
  const int index = block_id_x() / kBlocks;
  const int first_column = block_id_x() % kBlocks * kTwoColumns;
  const WorkItem item = load_item(params.rows, index);
  if (item.num_rows <= kTwoRowTile / 2) {
    two_mix_block<T, Width, 2>(params, item, index, first_column);
  } else {
    two_mix_block<T, Width, 4>(params, item, index, first_column);
  }
}

}  // namespace xattn
