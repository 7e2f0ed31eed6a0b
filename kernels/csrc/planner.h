// Makes the work items of a launch. Pure host code; kernels/mplug_kernels/planner.py is the same in Python.

#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "plan.h"

namespace xattn {

struct PlanRequest {
  const int32_t* image_index;  // S: which image each sequence attends
  int32_t sequences;
  const int32_t* kv_lens;  // I
  int32_t tokens;          // of a sequence, for each head
  int32_t heads;           // groups of rows that no item may cross
  int32_t row_tile;
  int32_t key_tile;
  int32_t splits;
};

// Positions of the sequences, those of one image side by side in their own order.
inline std::vector<int32_t> sort_by_image(const PlanRequest& request) {
  std::vector<int32_t> order(request.sequences);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t left, int32_t right) {
    return request.image_index[left] < request.image_index[right];
  });
  return order;
}

// Items of one (image, head, split): its rows, a tile at a time.
inline void append_row_tiles(std::vector<WorkItem>& items, const PlanRequest& request, WorkItem item, int32_t head) {
  const int32_t rows = item.sequences * request.tokens;
  for (int32_t row = 0; row < rows; row += request.row_tile) {
    item.first_row = head * rows + row;
    item.num_rows = std::min(request.row_tile, rows - row);
    items.push_back(item);
  }
}

// Items of one image, its keys cut into `splits` equal runs of whole tiles; the last runs may be empty.
inline void append_image(std::vector<WorkItem>& items, const PlanRequest& request, int32_t first, int32_t count,
                         int32_t image) {
  const int32_t length = request.kv_lens[image];
  const int32_t tiles = (length + request.key_tile - 1) / request.key_tile;
  const int32_t run = (tiles + request.splits - 1) / request.splits * request.key_tile;
  for (int32_t head = 0; head < request.heads; ++head) {
    for (int32_t split = 0; split < request.splits; ++split) {
      const int32_t begin = std::min(split * run, length), end = std::min(begin + run, length);
      append_row_tiles(items, request, {image, first, count, 0, 0, begin, end, split}, head);
    }
  }
}

// Every row of every sequence against every key of its image, once. `order` is from sort_by_image.
inline std::vector<WorkItem> make_items(const PlanRequest& request, const std::vector<int32_t>& order) {
  std::vector<WorkItem> items;
  int32_t first = 0;
  while (first < request.sequences) {
    const int32_t image = request.image_index[order[first]];
    int32_t end = first + 1;
    while (end < request.sequences && request.image_index[order[end]] == image) ++end;
    append_image(items, request, first, end - first, image);
    first = end;
  }
  return items;
}

}  // namespace xattn
