// What the kernels of this library share: vectors, a product of small blocks, and turns of threads.

#ifndef SCANMAX_COMMON_H_
#define SCANMAX_COMMON_H_

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace scanmax {

namespace ffi = xla::ffi;

// Numbers of a vector, and rows of a product that stay in registers: 16 vectors, or 32.
#if defined(__AVX512F__)
constexpr int kWide = 16, kRows = 12;
#else
constexpr int kWide = 8, kRows = 6;
#endif
constexpr int kPanel = 2 * kWide;  // columns of a product that stay in registers
typedef float vec __attribute__((vector_size(4 * kWide)));
typedef int32_t ivec __attribute__((vector_size(4 * kWide)));
constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline vec load(const float* p) {
  vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof(v)); }

inline vec filled(float x) { return x - vec{}; }

inline float sum(vec v) {
  float total = 0;
  for (int i = 0; i < kWide; ++i) total += v[i];
  return total;
}

inline float largest(vec v) {
  float most = v[0];
  for (int i = 1; i < kWide; ++i) most = std::max(most, v[i]);
  return most;
}

// e^x to two units in the last place for x <= 88; 0 from -87 down, -infinity included.
inline vec exponential(vec x) {
  const vec low = filled(-87.0f);
  const ivec tiny = x < low;
  vec y = tiny ? low : x;
  const vec magic = filled(12582912.0f);  // 1.5 * 2^23: adding it rounds
  const vec whole = (y * 1.44269504f + magic) - magic;
  vec r = y - whole * 0.693359375f;
  r = r + whole * 2.12194440e-4f;
  vec p = filled(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const ivec exponent = __builtin_convertvector(whole, ivec) << 23;
  ivec bits;
  std::memcpy(&bits, &p, sizeof(p));
  bits += exponent;
  std::memcpy(&p, &bits, sizeof(p));
  return tiny ? vec{} : p;
}

inline int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A matrix whose rows are multiplied: element (i, k) stands at i * row + k * column.
struct Left {
  const float* data;
  int64_t row, column;
};

// A matrix of panels of kPanel columns: element (k, j) stands at j / kPanel * panel + k * row +
// j % kPanel.
struct Right {
  const float* data;
  int64_t row, panel;
};

template <int M, int N>
inline void block(int64_t depth, Left a, const float* b, int64_t b_row, float* c, int64_t c_row,
                  bool add) {
  vec sums[M][N];
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) sums[i][j] = add ? load(c + i * c_row + j * kWide) : vec{};
  for (int64_t k = 0; k < depth; ++k) {
    vec columns[N];
    for (int j = 0; j < N; ++j) columns[j] = load(b + k * b_row + j * kWide);
    for (int i = 0; i < M; ++i) {
      const float x = a.data[i * a.row + k * a.column];
      for (int j = 0; j < N; ++j) sums[i][j] += x * columns[j];
    }
  }
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) store(c + i * c_row + j * kWide, sums[i][j]);
}

template <int M, int N>
void rows_of(int64_t rows, int64_t depth, Left a, const float* b, int64_t b_row, float* c,
             int64_t c_row, bool add) {
  if constexpr (M > 0) {
    if (rows == M) return block<M, N>(depth, a, b, b_row, c, c_row, add);
    rows_of<M - 1, N>(rows, depth, a, b, b_row, c, c_row, add);
  }
}

// c = a b, or c + a b. columns is a multiple of kWide, and c has room for it.
inline void multiply(int64_t rows, int64_t columns, int64_t depth, Left a, Right b, float* c,
                     int64_t c_row, bool add) {
  for (int64_t j = 0; j < columns; j += kPanel) {
    const float* panel = b.data + j / kPanel * b.panel;
    const bool is_half = columns - j < kPanel;
    for (int64_t i = 0; i < rows; i += kRows) {
      const Left part{a.data + i * a.row, a.row, a.column};
      const int64_t count = std::min<int64_t>(kRows, rows - i);
      if (is_half) {
        rows_of<kRows, 1>(count, depth, part, panel, b.row, c + i * c_row + j, c_row, add);
      } else {
        rows_of<kRows, 2>(count, depth, part, panel, b.row, c + i * c_row + j, c_row, add);
      }
    }
  }
}

// Calls task(0), ..., task(count - 1), by the pool's threads and this one. Waits for those begun
// alone, so that a pool that is busy holds nothing up.
template <typename Task>
void in_turns(ffi::ThreadPool& pool, int64_t count, Task task) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    int64_t count;
    Task task;
    State(int64_t count, Task task) : count(count), task(std::move(task)) {}
    void work() {
      for (int64_t i; (i = next.fetch_add(1)) < count;) {
        task(i);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  };
  auto state = std::make_shared<State>(count, std::move(task));
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([state] { state->work(); });
  state->work();
  while (state->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
}

}  // namespace scanmax

#endif  // SCANMAX_COMMON_H_
