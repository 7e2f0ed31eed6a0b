// Cross-attention to cached keys and values of heads 64 wide.
//
// A block of four warps takes up to 64 rows of one (image, head), sequences and tokens packed together, against a
// range of keys. With few rows the warps share out the keys of each tile instead of the rows, and their results are
// joined in shared memory in a fixed order.

#pragma once

#include "plan.h"
#include "primitives.cuh"
#include "rows.cuh"
#include "softmax.cuh"
#include "tiles.cuh"

namespace xattn {

constexpr int kKvThreads = 128;
constexpr int kKvWarps = kKvThreads / 32;
constexpr int kKvStages = 3;
constexpr int kKvTileBytes = kKvKeyTile * kHeadWidth * 2;
constexpr int kKvQueryBytes = kKvRowTile * kHeadWidth * 2;
constexpr int kKvSharedBytes = kKvQueryBytes + kKvStages * 2 * kKvTileBytes;

// Results of the warps before they are joined: a row of 64 values each, padded against bank conflicts.
constexpr int kKvJoinStride = kHeadWidth + 8;
static_assert(kKvWarps * 16 * (kKvJoinStride + 3) * 4 <= kKvSharedBytes, "results fit where tiles were");

// What a thread holds of its warp's 16 rows.
struct KvState {
  float out[kHeadWidth / 8][4] = {};
  float maximum[2] = {-kInfinity, -kInfinity};
  RowSums sums[2];  // of this thread's columns
};

// Keys, and after them values, of one tile.
template <typename T>
XATTN_DEVICE void copy_kv_tile(const KvParams& params, const WorkItem& item, int head, int key, unsigned char* stage) {
  const int64_t first = (static_cast<int64_t>(item.image) * params.keys + key) * params.rows.heads + head;
  const T* k = static_cast<const T*>(params.k) + first * kHeadWidth;
  const T* v = static_cast<const T*>(params.v) + first * kHeadWidth;
  constexpr int kChunks = kHeadWidth / kChunk;
  XATTN_ROLLED
  for (int piece = thread_id(); piece < kKvKeyTile * kChunks; piece += kKvThreads) {
    const int row = piece / kChunks, chunk = piece % kChunks;
    const int from = row * params.rows.heads * kHeadWidth + chunk * kChunk;
    unsigned char* to = stage + chunk_at<kHeadWidth>(row, chunk);
    const bool valid = key + row < item.key_end;
    copy_async_16(to, k + from, valid);
    copy_async_16(to + kKvTileBytes, v + from, valid);
  }
}

// Scores of a warp's 16 rows from `first_row` with 8 * Tiles keys of a tile from `first_key`.
template <typename T, int Tiles>
XATTN_DEVICE void kv_scores(float (&score)[Tiles][4], const unsigned char* queries, int first_row,
                            const unsigned char* keys, int first_key) {
  XATTN_UNROLL
  for (int step = 0; step < kHeadWidth / 16; ++step) {
    uint32_t q[4];
    load_a<kHeadWidth>(q, queries, first_row, 2 * step);
    XATTN_UNROLL
    for (int tile = 0; tile < Tiles; tile += 2) {
      uint32_t b0[2], b1[2];
      load_b_rows<kHeadWidth>(b0, b1, keys, first_key + 8 * tile, 2 * step);
      mma_16816(score[tile], q, b0, T{});
      mma_16816(score[tile + 1], q, b1, T{});
    }
  }
}

// Takes the tile's maximum into the state and rescales what it holds.
template <int Tiles>
XATTN_DEVICE void kv_raise_maximum(KvState& state, const float (&score)[Tiles][4]) {
  XATTN_UNROLL
  for (int half = 0; half < 2; ++half) {
    float highest = -kInfinity;
    XATTN_UNROLL
    for (int tile = 0; tile < Tiles; ++tile) {
      highest = larger(highest, larger(score[tile][2 * half], score[tile][2 * half + 1]));
    }
    const float maximum = larger(state.maximum[half], round_up(quad_maximum(highest)));
    const float factor = fast_exp2(state.maximum[half] - reference_of(maximum));
    state.maximum[half] = maximum;
    state.sums[half] *= factor;
    XATTN_UNROLL
    for (int column = 0; column < kHeadWidth / 8; ++column) {
      state.out[column][2 * half] *= factor;
      state.out[column][2 * half + 1] *= factor;
    }
  }
}

// out += weights * values, weights made from the scores 16 keys at a time.
template <typename T, int Tiles>
XATTN_DEVICE void kv_mix(KvState& state, const float (&score)[Tiles][4], const unsigned char* values, int first_key) {
  const float reference[2] = {reference_of(state.maximum[0]), reference_of(state.maximum[1])};
  XATTN_UNROLL
  for (int tile = 0; tile < Tiles; tile += 2) {
    uint32_t weights[4];
    XATTN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float(&pair)[4] = score[tile + i / 2];
      const int half = i & 1;
      weights[i] = weigh_pair<T>(pair[2 * half], pair[2 * half + 1], reference[half], state.sums[half]);
    }
    XATTN_UNROLL
    for (int column = 0; column < kHeadWidth / 8; column += 2) {
      uint32_t b0[2], b1[2];
      load_b_columns<kHeadWidth>(b0, b1, values, first_key + 8 * tile, column);
      mma_16816(state.out[column], weights, b0, T{});
      mma_16816(state.out[column + 1], weights, b1, T{});
    }
  }
}

// Leaves a warp's rows in shared memory: values, then maxima and sums.
XATTN_DEVICE void kv_put(const KvState& state, float* results, float* statistics) {
  const int lane = lane_id();
  XATTN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = warp_id() * 16 + lane / 4 + 8 * half;
    const RowSums sums = quad_sum(state.sums[half]);
    if ((lane & 3) == 0) {
      statistics[3 * row] = state.maximum[half];
      statistics[3 * row + 1] = sums.rounded;
      statistics[3 * row + 2] = sums.exact;
    }
    XATTN_UNROLL
    for (int column = 0; column < kHeadWidth / 8; ++column) {
      float* out = results + row * kKvJoinStride + 8 * column + 2 * (lane & 3);
      store_floats(out, state.out[column][2 * half], state.out[column][2 * half + 1]);
    }
  }
}

// Joins what KeyWarps warps found for one row and writes two columns of it.
template <typename T, int KeyWarps>
XATTN_DEVICE void kv_join(const RowParams& params, const WorkItem& item, const float* results, const float* statistics,
                          int row, int column) {
  constexpr int kRows = kKvRowTile / KeyWarps;
  float maximum = -kInfinity;
  for (int part = 0; part < KeyWarps; ++part) {
    maximum = larger(maximum, statistics[3 * (part * kRows + row)]);
  }
  RowSums sums;
  float low = 0.0f, high = 0.0f;
  for (int part = 0; part < KeyWarps; ++part) {
    const int place = part * kRows + row;
    const float factor = fast_exp2(statistics[3 * place] - reference_of(maximum));
    sums += {factor * statistics[3 * place + 1], factor * statistics[3 * place + 2]};
    const FloatPair pair = load_floats(results + place * kKvJoinStride + column);
    low += factor * pair.low;
    high += factor * pair.high;
  }
  const int64_t offset = row_offset(params, item, row);
  const float scale = normalizer(sums);
  store_pair<T>(params, item.split, offset, kHeadWidth, column, low * scale, high * scale);
  if (column == 0) store_lse(params, item.split, offset, maximum, sums);
}

// RowWarps warps share out the rows, the others the keys of a tile.
template <typename T, int RowWarps>
XATTN_DEVICE void kv_block(const KvParams& params, const WorkItem& item) {
  constexpr int kKeyWarps = kKvWarps / RowWarps;
  constexpr int kKeys = kKvKeyTile / kKeyWarps;
  constexpr int kRows = 16 * RowWarps;
  unsigned char* queries = dynamic_shared();
  unsigned char* stages = queries + kKvQueryBytes;
  const int head = item.first_row / (item.sequences * params.rows.tokens);
  const int first_key = warp_id() / RowWarps * kKeys;
  const int num_tiles = (item.key_end - item.key_begin + kKvKeyTile - 1) / kKvKeyTile;

  const auto fetch = [&](int tile) {
    unsigned char* stage = stages + tile % kKvStages * 2 * kKvTileBytes;
    if (tile < num_tiles) copy_kv_tile<T>(params, item, head, item.key_begin + tile * kKvKeyTile, stage);
    commit_copies();
  };
  const T* q = static_cast<const T*>(params.q);
  copy_rows_one_by_one<kRows, kHeadWidth, kKvThreads>(queries, item.num_rows, [&](int row) {
    return q + static_cast<int64_t>(row_offset_within(params.rows, item, row)) * kHeadWidth;
  });
  for (int tile = 0; tile < kKvStages - 1; ++tile) fetch(tile);

  KvState state;
  XATTN_ROLLED
  for (int tile = 0; tile < num_tiles; ++tile) {
    wait_copies<kKvStages - 2>();
    sync_block();
    fetch(tile + kKvStages - 1);
    const unsigned char* stage = stages + tile % kKvStages * 2 * kKvTileBytes;
    // 32 keys at a time: four blocks of a multiprocessor leave registers for no more.
    constexpr int kStep = kKeys < 32 ? kKeys : 32;
    XATTN_ROLLED
    for (int key = first_key; key < first_key + kKeys; key += kStep) {
      float score[kStep / 8][4] = {};
      kv_scores<T>(score, queries, warp_id() % RowWarps * 16, stage, key);
      scale_and_mask(score, params.rows.scale_log2, item.key_begin + tile * kKvKeyTile + key, item.key_end);
      kv_raise_maximum(state, score);
      kv_mix<T>(state, score, stage + kKvTileBytes, key);
    }
  }

  wait_copies<0>();
  sync_block();
  float* results = reinterpret_cast<float*>(dynamic_shared());
  float* statistics = results + kKvWarps * 16 * kKvJoinStride;
  kv_put(state, results, statistics);
  sync_block();
  constexpr int kPairs = kHeadWidth / 2;
  // The item is loaded again rather than held in registers through the loop.
  const WorkItem again = load_item(params.rows, block_id_x());
  for (int piece = thread_id(); piece < again.num_rows * kPairs; piece += kKvThreads) {
    kv_join<T, kKeyWarps>(params.rows, again, results, statistics, piece / kPairs, piece % kPairs * 2);
  }
}

// One block for each item.
template <typename T>
XATTN_KERNEL void XATTN_BOUNDS(kKvThreads, 4) xattn_kv_kernel(const KvParams params) {
  const WorkItem item = load_item(params.rows, block_id_x());
  if (item.num_rows <= 16) {
    kv_block<T, 1>(params, item);
  } else if (item.num_rows <= 32) {
    kv_block<T, 2>(params, item);
  } else {
    kv_block<T, 4>(params, item);
  }
}

}  // namespace xattn
