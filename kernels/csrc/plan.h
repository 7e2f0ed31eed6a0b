// What a launch is made of: plain structs that host and device share.
//
// Dimensions: S sequences of L tokens, H heads of width 64, I images of N keys, D width of an image's rows.

#pragma once

#include <cstdint>

namespace xattn {

constexpr int kHeadWidth = 64;

// Most rows of an item, and the keys that its range is cut by, for each form.
constexpr int kKvRowTile = 64;
constexpr int kKvKeyTile = 64;
constexpr int kTwoRowTile = 128;
constexpr int kTwoKeyTile = 128;
constexpr int kOneRowTile = 32;
constexpr int kOneKeyTile = 32;

// One block's work: rows of one image against a range of its keys.
//
// The rows of an image are the triples (head, sequence, token), the head slowest; its sequences are those at positions
// first_sequence ... of `row_sequence`. An xattn_kv item never crosses a head; an xattn_absorbed item may.
struct WorkItem {
  int32_t image;
  int32_t first_sequence;  // position in row_sequence of the image's first sequence
  int32_t sequences;       // how many sequences attend this image
  int32_t first_row;       // of the image's heads * sequences * tokens rows
  int32_t num_rows;
  int32_t key_begin;
  int32_t key_end;  // may equal key_begin: nothing to attend to
  int32_t split;    // which partial result this is
};

constexpr int kItemFields = 8;
static_assert(sizeof(WorkItem) == kItemFields * sizeof(int32_t), "a WorkItem is one row of the items tensor");

// What all forms know of rows and of where results go. With splits > 1 results go to float32 partials, which
// `combine` joins; otherwise to `out`.
struct RowParams {
  const WorkItem* items;
  const int32_t* row_sequence;  // S
  const int32_t* kv_lens;       // I
  void* out;                    // S, L, H, width, input type
  float* lse;                   // S, L, H
  float* partial_out;           // splits, S, L, H, width
  float* partial_lse;           // splits, S, L, H, 2: of the rounded and of the exact weights
  int32_t num_items;
  int32_t sequences;  // S
  int32_t tokens;     // L
  int32_t heads;      // H
  int32_t splits;
  float scale_log2;  // scale * log2(e): scores are exponents of 2
};

struct KvParams {
  RowParams rows;
  const void* q;  // S, L, H, 64
  const void* k;  // I, N, H, 64
  const void* v;  // I, N, H, 64
  int32_t keys;   // N
};

struct AbsorbedParams {
  RowParams rows;
  const void* q;  // S, L, H, D
  const void* x;  // I, N, D
  int32_t keys;   // N
  // Workspace of the two-GEMM form; its tiles are numbered item * item_tiles + tile, each of kTwoKeyTile keys.
  int32_t item_tiles;  // most key tiles of one item
  void* weights;       // num_items * item_tiles, kTwoRowTile, kTwoKeyTile: exp2(score - tile maximum), input type
  float* tile_max;     // num_items * item_tiles, kTwoRowTile
  float* tile_sum;     // num_items * item_tiles, 2, kTwoRowTile: of the rounded and of the exact weights
};

// Joins `parts` partial results of the same rows in a fixed order.
struct CombineParams {
  const float* partial_out;  // parts, rows, width
  const float* partial_lse;  // parts, rows, 2
  void* out;                 // rows, width
  float* lse;                // rows
  int64_t rows;
  int32_t width;
  int32_t parts;
};

// Joins two results over disjoint keys.
struct MergeParams {
  const void* out1;  // rows, width
  const float* lse1;
  const void* out2;
  const float* lse2;
  void* out;
  float* lse;
  int64_t rows;
  int32_t width;
};

}  // namespace xattn
