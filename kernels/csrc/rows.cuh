// Rows of a work item: where they come from and where their results go.

#pragma once

#include "plan.h"
#include "primitives.cuh"

namespace xattn {

constexpr float kLn2 = 0.693147180559945309f;
constexpr float kLog2e = 1.442695040888963407f;
constexpr float kInfinity = __builtin_huge_valf();

// Offset of an item's row in (S, L, H): the same for queries and for results.
XATTN_DEVICE int row_offset(const RowParams& params, const WorkItem& item, int row) {
  const int rows_of_head = item.sequences * params.tokens;
  const int head = (item.first_row + row) / rows_of_head;
  const int place = (item.first_row + row) - head * rows_of_head;
  const int position = place / params.tokens;
  const int sequence = params.row_sequence[item.first_sequence + position];
  return (sequence * params.tokens + place - position * params.tokens) * params.heads + head;
}

// The same for any row of a tile: rows that an item does not have are its last one.
XATTN_DEVICE int row_offset_within(const RowParams& params, const WorkItem& item, int row) {
  return row_offset(params, item, row < item.num_rows ? row : item.num_rows - 1);
}

// An item, its range of keys never past the end of its image whatever the plan was made for.
XATTN_DEVICE WorkItem load_item(const RowParams& params, int index) {
  WorkItem item = params.items[index];
  const int length = params.kv_lens[item.image];
  item.key_end = item.key_end < length ? item.key_end : length;
  return item;
}

// Two neighbouring floats, moved together.
struct alignas(8) FloatPair {
  float low;
  float high;
};

XATTN_DEVICE void store_floats(float* to, float low, float high) { *reinterpret_cast<FloatPair*>(to) = {low, high}; }
XATTN_DEVICE FloatPair load_floats(const float* from) { return *reinterpret_cast<const FloatPair*>(from); }

// Writes two neighbouring columns of a row's result, or of its partial result.
template <typename T>
XATTN_DEVICE void store_pair(const RowParams& params, int split, int64_t offset, int width, int column, float low,
                             float high) {
  if (params.splits == 1) {
    T* out = static_cast<T*>(params.out) + offset * width + column;
    *reinterpret_cast<uint32_t*>(out) = pack2(low, high, T{});
    return;
  }
  const int64_t rows = static_cast<int64_t>(params.sequences) * params.tokens * params.heads;
  store_floats(params.partial_out + (split * rows + offset) * width + column, low, high);
}

// Sums of a row's weights: as they were rounded to the input type, which is what values are divided by, and as they
// were before, which is what the log-sum-exp is made of.
struct RowSums {
  float rounded = 0.0f;
  float exact = 0.0f;

  XATTN_DEVICE void operator*=(float factor) {
    rounded *= factor;
    exact *= factor;
  }
  XATTN_DEVICE void operator+=(const RowSums& other) {
    rounded += other.rounded;
    exact += other.exact;
  }
};

// What a row's weighted sum is multiplied by; 0 where there was nothing to attend to.
XATTN_DEVICE float normalizer(const RowSums& sums) { return sums.rounded > 0.0f ? 1.0f / sums.rounded : 0.0f; }

// Natural, of weights that were scaled by 2^-maximum.
XATTN_DEVICE float log_sum(float maximum, float sum) {
  return sum > 0.0f ? (maximum + fast_log2(sum)) * kLn2 : -kInfinity;
}

// Writes a row's log-sum-exp. A partial result carries that of its rounded weights too: splits joined by it are what
// one pass would have found.
XATTN_DEVICE void store_lse(const RowParams& params, int split, int64_t offset, float maximum, const RowSums& sums) {
  if (params.splits == 1) {
    params.lse[offset] = log_sum(maximum, sums.exact);
    return;
  }
  const int64_t rows = static_cast<int64_t>(params.sequences) * params.tokens * params.heads;
  float* pair = params.partial_lse + (split * rows + offset) * 2;
  store_floats(pair, log_sum(maximum, sums.rounded), log_sum(maximum, sums.exact));
}

}  // namespace xattn
