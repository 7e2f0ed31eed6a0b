// Prints threads and dynamic shared memory of every kernel's blocks, by the beginning of its demangled name.

#include <cstdio>

#include "combine.cuh"
#include "xattn_absorbed_one.cuh"
#include "xattn_absorbed_two.cuh"
#include "xattn_kv.cuh"

template <int Width, int Keys, int Stages>
void print_one() {
  std::printf("absorbed_one_kernel %d,%d,%d %d %d\n", Width, Keys, Stages, xattn::kOneThreads,
              xattn::OneShape<Width, Keys, Stages>::kSharedBytes);
}

template <typename Shape>
struct Printed;

template <int Width, int Keys, int Stages>
struct Printed<xattn::OneShape<Width, Keys, Stages>> {
  static void print() { print_one<Width, Keys, Stages>(); }
};

int main() {
  std::printf("xattn_kv_kernel - %d %d\n", xattn::kKvThreads, xattn::kKvSharedBytes);
  std::printf("absorbed_scores_kernel - %d %d\n", xattn::kTwoThreads, xattn::kTwoSharedBytes);
  std::printf("absorbed_mix_kernel - %d %d\n", xattn::kTwoThreads, xattn::kTwoSharedBytes);
  std::printf("combine_kernel - %d 0\n", xattn::kCombineThreads);
  std::printf("merge_kernel - %d 0\n", xattn::kCombineThreads);
  Printed<xattn::OneShape384>::print();
  Printed<xattn::OneShape768>::print();
  Printed<xattn::OneShape768Narrow>::print();
  Printed<xattn::OneShape1024>::print();
  Printed<xattn::OneShape1024Narrow>::print();
}
