// Convolution of each channel with its own kernel, of float32, stride 1:
//
//   y[u, v, c] = sum_ij x[u + i - top, v + j - left, c] w[i, j, c]
//
// and the gradient of w. That of x is the convolution of the output's with the kernel turned round.
// Sixteen channels at a time, one cache line of a pixel, are copied out of the maps with their
// border, so that sums run over what lies together.

#include "common.h"

namespace scanmax {
namespace {

constexpr int64_t kLine = 16;  // channels that are taken together
constexpr int kPlaces = 6;     // outputs of a row that stay in registers
constexpr int kTaps = 7;       // taps of a row that stay there too

struct Sizes {
  int64_t batch, Y, X, C, rows, columns, U, V, top, left;
  int64_t lines() const { return (C + kLine - 1) / kLine; }
};

// Channels from `begin` on of [Y, X, C] in the middle of [height, width, kLine] zeros.
void copy_line(const float* from, int64_t Y, int64_t X, int64_t C, int64_t begin, int64_t top,
               int64_t left, int64_t height, int64_t width, float* to) {
  const int64_t count = std::min(kLine, C - begin);
  std::fill(to, to + height * width * kLine, 0.0f);
  for (int64_t y = std::max<int64_t>(0, -top); y < std::min(Y, height - top); ++y) {
    for (int64_t x = std::max<int64_t>(0, -left); x < std::min(X, width - left); ++x) {
      std::memcpy(to + ((y + top) * width + x + left) * kLine, from + (y * X + x) * C + begin,
                  count * sizeof(float));
    }
  }
}

// sums[p] += sum_t row[p + t] taps[t], a vector of channels each. Unrolled, all stays in registers.
template <int T>
inline void slide(const float* row, const float* taps, vec* sums) {
  vec weights[T], own[kPlaces];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) weights[t] = load(taps + t * kLine);
#pragma GCC unroll 8
  for (int p = 0; p < kPlaces; ++p) own[p] = sums[p];
#pragma GCC unroll 16
  for (int i = 0; i < kPlaces + T - 1; ++i) {
    const vec x = load(row + i * kLine);
#pragma GCC unroll 8
    for (int p = 0; p < kPlaces; ++p)
      if (i - p >= 0 && i - p < T) own[p] += x * weights[i - p];
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPlaces; ++p) sums[p] = own[p];
}

// sums[t] += sum_p row[p + t] slopes[p].
template <int T>
inline void collect(const float* row, const float* slopes, vec* sums) {
  vec given[kPlaces], own[T];
#pragma GCC unroll 8
  for (int p = 0; p < kPlaces; ++p) given[p] = load(slopes + p * kLine);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) own[t] = sums[t];
#pragma GCC unroll 16
  for (int i = 0; i < kPlaces + T - 1; ++i) {
    const vec x = load(row + i * kLine);
#pragma GCC unroll 8
    for (int p = 0; p < kPlaces; ++p)
      if (i - p >= 0 && i - p < T) own[i - p] += x * given[p];
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums[t] = own[t];
}

// Calls do_it with the number of taps as a constant.
template <int T = kTaps, typename Call>
inline void with_taps(int64_t taps, Call do_it) {
  if constexpr (T > 0) {
    if (taps == T) return do_it(std::integral_constant<int, T>{});
    with_taps<T - 1>(taps, do_it);
  }
}

void convolve(ffi::ThreadPool& pool, const Sizes& n, const float* x, const float* w, float* y) {
  const int64_t width = up(n.V, kPlaces) + n.columns - 1, height = n.U + n.rows - 1;
  in_turns(pool, n.batch * n.lines(), [=](int64_t task) {
    const int64_t example = task / n.lines(), begin = task % n.lines() * kLine;
    const int64_t count = std::min(kLine, n.C - begin);
    std::vector<float> map(height * width * kLine), taps(n.rows * n.columns * kLine);
    copy_line(x + example * n.Y * n.X * n.C, n.Y, n.X, n.C, begin, n.top, n.left, height, width,
              map.data());
    copy_line(w, n.rows, n.columns, n.C, begin, 0, 0, n.rows, n.columns, taps.data());
    float* out = y + example * n.U * n.V * n.C + begin;
    for (int64_t u = 0; u < n.U; ++u) {
      for (int64_t v = 0; v < n.V; v += kPlaces) {
        float found[kPlaces * kLine];
        for (int64_t c = 0; c < kLine; c += kWide) {
          vec sums[kPlaces] = {};
          for (int64_t j = 0; j < n.columns; j += kTaps) {
            with_taps(std::min<int64_t>(kTaps, n.columns - j), [&](auto T) {
              for (int64_t i = 0; i < n.rows; ++i) {
                slide<T>(&map[((u + i) * width + v + j) * kLine + c],
                         &taps[(i * n.columns + j) * kLine + c], sums);
              }
            });
          }
          for (int p = 0; p < kPlaces; ++p) store(found + p * kLine + c, sums[p]);
        }
        for (int64_t p = 0; p < std::min<int64_t>(kPlaces, n.V - v); ++p) {
          std::memcpy(out + (u * n.V + v + p) * n.C, found + p * kLine, count * sizeof(float));
        }
      }
    }
  });
}

void kernel_gradient(ffi::ThreadPool& pool, const Sizes& n, const float* x, const float* d_y,
                     float* d_w) {
  const int64_t wide = up(n.V, kPlaces), width = wide + n.columns - 1, height = n.U + n.rows - 1;
  in_turns(pool, n.lines(), [=](int64_t line) {
    const int64_t begin = line * kLine, count = std::min(kLine, n.C - begin);
    std::vector<float> map(height * width * kLine), slopes(n.U * wide * kLine),
        total(n.rows * n.columns * kLine);
    for (int64_t example = 0; example < n.batch; ++example) {
      copy_line(x + example * n.Y * n.X * n.C, n.Y, n.X, n.C, begin, n.top, n.left, height, width,
                map.data());
      copy_line(d_y + example * n.U * n.V * n.C, n.U, n.V, n.C, begin, 0, 0, n.U, wide,
                slopes.data());
      for (int64_t i = 0; i < n.rows; ++i) {
        for (int64_t j = 0; j < n.columns; j += kTaps) {
          with_taps(std::min<int64_t>(kTaps, n.columns - j), [&](auto T) {
            for (int64_t c = 0; c < kLine; c += kWide) {
              float* kept = &total[(i * n.columns + j) * kLine + c];
              // Sums of a row, then of rows: fewer terms in a row round less.
              for (int64_t u = 0; u < n.U; ++u) {
                vec sums[T] = {};
                for (int64_t v = 0; v < wide; v += kPlaces) {
                  collect<T>(&map[((u + i) * width + v + j) * kLine + c],
                             &slopes[(u * wide + v) * kLine + c], sums);
                }
                for (int t = 0; t < T; ++t)
                  store(kept + t * kLine, load(kept + t * kLine) + sums[t]);
              }
            }
          });
        }
      }
    }
    for (int64_t tap = 0; tap < n.rows * n.columns; ++tap)
      std::memcpy(d_w + tap * n.C + begin, &total[tap * kLine], count * sizeof(float));
  });
}

using F32 = ffi::Buffer<ffi::F32>;

// Of maps [B, Y, X, C], of what slides over them, [rows, columns, C], and of the sums.
ffi::Error convolution(ffi::ThreadPool pool, F32 x, F32 w, int64_t top, int64_t left,
                       ffi::Result<F32> y) {
  const auto a = x.dimensions(), b = w.dimensions(), c = y->dimensions();
  const Sizes n{a[0], a[1], a[2], a[3], b[0], b[1], c[1], c[2], top, left};
  convolve(pool, n, x.typed_data(), w.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error gradient(ffi::ThreadPool pool, F32 x, F32 d_y, int64_t top, int64_t left,
                    ffi::Result<F32> d_w) {
  const auto a = x.dimensions(), b = d_w->dimensions(), c = d_y.dimensions();
  const Sizes n{a[0], a[1], a[2], a[3], b[0], b[1], c[1], c[2], top, left};
  kernel_gradient(pool, n, x.typed_data(), d_y.typed_data(), d_w->typed_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(scanmax_depthwise, convolution,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>().Arg<F32>()
                                  .Attr<int64_t>("top").Attr<int64_t>("left")
                                  .Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(scanmax_depthwise_gradient, gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>().Arg<F32>()
                                  .Attr<int64_t>("top").Attr<int64_t>("left")
                                  .Ret<F32>());

}  // namespace scanmax
