// Softmax attention of float32, a block of queries and keys at a time; scores never leave the cache.
//
//   y_i = sum_j e^(q_i k_j - s_i) v_j,   s_i = log(sum_j e^(q_i k_j) + e^null)
//
// over the keys j from first_i to last_i that are visible. A query that reads none gives 0. The
// backward pass makes the weights again from s, as the forward pass made them.

#include "common.h"

namespace scanmax {
namespace {

constexpr int64_t kQueries = 96, kKeys = 128;          // of a block, forward
constexpr int64_t kKeysBack = 48, kQueriesBack = 128;  // of a block, backward

struct Sizes {
  int64_t batch, T, S, H, G, K, V;
};

// Arrays of one head of one example: rows of [length, heads, width].
struct Head {
  const float* data;
  int64_t stride;
  const float* row(int64_t i) const { return data + i * stride; }
};

Head head_of(const float* data, int64_t example, int64_t length, int64_t heads, int64_t head,
             int64_t width) {
  return {data + (example * length * heads + head) * width, heads * width};
}

// [length, width] -> the same, rows of `room` numbers, zeros behind.
void copy_rows(Head from, int64_t length, int64_t width, int64_t room, float* to) {
  for (int64_t i = 0; i < length; ++i) {
    std::memcpy(to + i * room, from.row(i), width * sizeof(float));
    std::fill(to + i * room + width, to + (i + 1) * room, 0.0f);
  }
}

// [length, width] -> panels of kPanel rows, each [width, kPanel], zeros behind.
void turn(Head from, int64_t length, int64_t width, float* to) {
  for (int64_t i = 0; i < length; i += kPanel) {
    float* panel = to + i * width;
    const int64_t there = std::min<int64_t>(kPanel, length - i);
    for (int64_t j = 0; j < there; ++j) {
      const float* row = from.row(i + j);
      for (int64_t k = 0; k < width; ++k) panel[k * kPanel + j] = row[k];
    }
    for (int64_t j = there; j < kPanel; ++j)
      for (int64_t k = 0; k < width; ++k) panel[k * kPanel + j] = 0.0f;
  }
}

// Which keys the queries of an example read.
struct Reads {
  const int32_t* first;
  const int32_t* last;
  const bool* visible;
  bool all_visible;

  Reads(const int32_t* first, const int32_t* last, const bool* visible, int64_t S)
      : first(first), last(last), visible(visible),
        all_visible(std::all_of(visible, visible + S, [](bool x) { return x; })) {}
};

void forward_head(const Sizes& n, const Reads& reads, Head q, const float* keys,
                  const float* values, float null, int64_t begin, int64_t end, float* y,
                  int64_t y_stride, float* sums) {
  const int64_t room = up(n.V, kWide);
  std::vector<float> scores(kQueries * kKeys), out(kQueries * room);
  float top[kQueries], total[kQueries];
  for (int64_t i0 = begin; i0 < end; i0 += kQueries) {
    const int64_t rows = std::min(kQueries, end - i0);
    const int32_t* first = reads.first + i0;
    const int32_t* last = reads.last + i0;
    const int64_t from = *std::min_element(first, first + rows) / kKeys * kKeys;
    const int64_t to = std::min<int64_t>(n.S, *std::max_element(last, last + rows));
    std::fill(top, top + rows, null);
    std::fill(total, total + rows, null == -kInfinity ? 0.0f : 1.0f);
    std::fill(out.begin(), out.end(), 0.0f);
    for (int64_t j0 = from; j0 < to; j0 += kKeys) {
      const int64_t count = std::min(kKeys, n.S - j0), wide = up(count, kPanel);
      multiply(rows, wide, n.K, {q.row(i0), q.stride, 1},
               {keys + j0 * n.K, kPanel, n.K * kPanel}, scores.data(), kKeys, false);
      for (int64_t i = 0; i < rows; ++i) {
        float* row = scores.data() + i * kKeys;
        const int64_t left = std::clamp<int64_t>(first[i] - j0, 0, wide);
        const int64_t right = std::clamp<int64_t>(last[i] - j0, 0, count);
        std::fill(row, row + left, -kInfinity);
        std::fill(row + right, row + wide, -kInfinity);
        if (!reads.all_visible)
          for (int64_t j = left; j < right; ++j)
            if (!reads.visible[j0 + j]) row[j] = -kInfinity;
        vec most = load(row);
        for (int64_t j = kWide; j < wide; j += kWide) {
          const vec x = load(row + j);
          most = x > most ? x : most;
        }
        const float level = std::max(top[i], largest(most));
        if (level == -kInfinity) {
          std::fill(row, row + wide, 0.0f);
          continue;
        }
        vec added = {};
        for (int64_t j = 0; j < wide; j += kWide) {
          const vec weight = exponential(load(row + j) - level);
          added += weight;
          store(row + j, weight);
        }
        if (level > top[i]) {
          const float less = std::exp(top[i] - level);
          total[i] *= less;
          for (int64_t v = 0; v < room; v += kWide)
            store(&out[i * room + v], load(&out[i * room + v]) * less);
          top[i] = level;
        }
        total[i] += sum(added);
      }
      multiply(rows, room, count, {scores.data(), kKeys, 1},
               {values + j0 * room, room, kPanel}, out.data(), room, true);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const float share = total[i] > 0 ? 1.0f / total[i] : 0.0f;
      for (int64_t v = 0; v < n.V; ++v) y[(i0 + i) * y_stride + v] = out[i * room + v] * share;
      sums[i0 + i] = total[i] > 0 ? top[i] + std::log(total[i]) : kInfinity;
    }
  }
}

void forward(ffi::ThreadPool& pool, const Sizes& n, const float* q, const float* k, const float* v,
             const int32_t* first, const int32_t* last, const bool* visible, float null, float* y,
             float* sums) {
  // Heads are tasks; where they are fewer than threads, parts of their queries.
  const int64_t heads = n.batch * n.H, threads = pool.num_threads();
  const int64_t wanted = heads >= 2 * threads ? 1 : (2 * threads + heads - 1) / heads;
  const int64_t part = up((n.T + wanted - 1) / wanted, kQueries);
  const int64_t parts = (n.T + part - 1) / part;
  in_turns(pool, heads * parts, [=](int64_t task) {
    const int64_t begin = task % parts * part, head = task / parts % n.H;
    const int64_t example = task / parts / n.H, group = head / (n.H / n.G);
    const Reads reads(first + example * n.T, last + example * n.T, visible + example * n.S, n.S);
    const int64_t room = up(n.V, kWide);
    std::vector<float> keys(up(n.S, kPanel) * n.K), values(n.S * room);
    turn(head_of(k, example, n.S, n.G, group, n.K), n.S, n.K, keys.data());
    copy_rows(head_of(v, example, n.S, n.G, group, n.V), n.S, n.V, room, values.data());
    forward_head(n, reads, head_of(q, example, n.T, n.H, head, n.K), keys.data(), values.data(),
                 null, begin, std::min(begin + part, n.T),
                 y + (example * n.T * n.H + head) * n.V, n.H * n.V,
                 sums + (example * n.H + head) * n.T);
  });
}

// Weights and their gradients of a block, keys by queries, in place of scores and products.
void pull_back_block(const Reads& reads, int64_t i0, int64_t queries, int64_t j0, int64_t keys,
                     const float* sums, const float* means, float* weights, float* slopes) {
  for (int64_t j = 0; j < keys; ++j) {
    const int32_t key = static_cast<int32_t>(j0 + j);
    float* weight = weights + j * kQueriesBack;
    float* slope = slopes + j * kQueriesBack;
    if (!reads.visible[key]) {
      std::fill(weight, weight + queries, 0.0f);
      std::fill(slope, slope + queries, 0.0f);
      continue;
    }
    for (int64_t i = 0; i < queries; i += kWide) {
      ivec first, last;
      std::memcpy(&first, reads.first + i0 + i, sizeof(first));
      std::memcpy(&last, reads.last + i0 + i, sizeof(last));
      const vec score = load(weight + i) - load(sums + i0 + i);
      const ivec is_read = (first <= key) & (last > key);
      const vec x = exponential(is_read ? score : filled(-kInfinity));
      store(weight + i, x);
      store(slope + i, x * (load(slope + i) - load(means + i0 + i)));
    }
  }
}

void backward_group(const Sizes& n, const Reads& reads, int64_t example, int64_t group,
                    const float* q, const float* k, const float* v, const float* y,
                    const float* sums, const float* d_y, float* d_q, float* d_k, float* d_v) {
  const int64_t wide_K = up(n.K, kWide), wide_V = up(n.V, kWide), long_T = up(n.T, kQueriesBack);
  std::vector<float> keys(n.S * wide_K), values(n.S * wide_V), q_rows(long_T * wide_K),
      q_panels(long_T * n.K), y_rows(long_T * wide_V), y_panels(long_T * n.V), means(long_T),
      levels(long_T), queries_back(long_T * wide_K), keys_back(n.S * wide_K),
      values_back(n.S * wide_V), weights(kKeysBack * kQueriesBack), slopes(weights.size());
  std::vector<int32_t> first(long_T, 0), last(long_T, 0);
  std::copy(reads.first, reads.first + n.T, first.begin());
  std::copy(reads.last, reads.last + n.T, last.begin());
  Reads padded = reads;
  padded.first = first.data();
  padded.last = last.data();
  copy_rows(head_of(k, example, n.S, n.G, group, n.K), n.S, n.K, wide_K, keys.data());
  copy_rows(head_of(v, example, n.S, n.G, group, n.V), n.S, n.V, wide_V, values.data());
  const int64_t shared = n.H / n.G;
  for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
    const Head q_head = head_of(q, example, n.T, n.H, head, n.K);
    const Head y_head = head_of(y, example, n.T, n.H, head, n.V);
    const Head d_head = head_of(d_y, example, n.T, n.H, head, n.V);
    copy_rows(q_head, n.T, n.K, wide_K, q_rows.data());
    copy_rows(d_head, n.T, n.V, wide_V, y_rows.data());
    turn(q_head, n.T, n.K, q_panels.data());
    turn(d_head, n.T, n.V, y_panels.data());
    for (int64_t i = 0; i < n.T; ++i) {
      float mean = 0;
      for (int64_t c = 0; c < n.V; ++c) mean += y_head.row(i)[c] * d_head.row(i)[c];
      means[i] = mean;
      levels[i] = sums[(example * n.H + head) * n.T + i];
    }
    std::fill(queries_back.begin(), queries_back.end(), 0.0f);
    for (int64_t i0 = 0; i0 < n.T; i0 += kQueriesBack) {
      const int64_t rows = std::min(kQueriesBack, n.T - i0), wide = up(rows, kPanel);
      const int64_t from = *std::min_element(&first[i0], &first[i0] + rows) / kKeysBack * kKeysBack;
      const int64_t to = std::min<int64_t>(n.S, *std::max_element(&last[i0], &last[i0] + rows));
      for (int64_t j0 = from; j0 < to; j0 += kKeysBack) {
        const int64_t count = std::min(kKeysBack, n.S - j0);
        multiply(count, wide, n.K, {&keys[j0 * wide_K], wide_K, 1},
                 {&q_panels[i0 * n.K], kPanel, n.K * kPanel}, weights.data(), kQueriesBack, false);
        multiply(count, wide, n.V, {&values[j0 * wide_V], wide_V, 1},
                 {&y_panels[i0 * n.V], kPanel, n.V * kPanel}, slopes.data(), kQueriesBack, false);
        pull_back_block(padded, i0, wide, j0, count, levels.data(), means.data(), weights.data(),
                        slopes.data());
        multiply(count, wide_V, rows, {weights.data(), kQueriesBack, 1},
                 {&y_rows[i0 * wide_V], wide_V, kPanel}, &values_back[j0 * wide_V], wide_V, true);
        multiply(count, wide_K, rows, {slopes.data(), kQueriesBack, 1},
                 {&q_rows[i0 * wide_K], wide_K, kPanel}, &keys_back[j0 * wide_K], wide_K, true);
        multiply(rows, wide_K, count, {slopes.data(), 1, kQueriesBack},
                 {&keys[j0 * wide_K], wide_K, kPanel}, &queries_back[i0 * wide_K], wide_K, true);
      }
    }
    float* to = d_q + (example * n.T * n.H + head) * n.K;
    for (int64_t i = 0; i < n.T; ++i)
      std::memcpy(to + i * n.H * n.K, &queries_back[i * wide_K], n.K * sizeof(float));
  }
  float* to_keys = d_k + (example * n.S * n.G + group) * n.K;
  float* to_values = d_v + (example * n.S * n.G + group) * n.V;
  for (int64_t j = 0; j < n.S; ++j) {
    std::memcpy(to_keys + j * n.G * n.K, &keys_back[j * wide_K], n.K * sizeof(float));
    std::memcpy(to_values + j * n.G * n.V, &values_back[j * wide_V], n.V * sizeof(float));
  }
}

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Flags = ffi::Buffer<ffi::PRED>;

Sizes sizes_of(const F32& q, const F32& k, const F32& v) {
  const auto a = q.dimensions(), b = k.dimensions(), c = v.dimensions();
  const size_t r = a.size();
  Sizes n{1, a[r - 3], b[r - 3], a[r - 2], b[r - 2], a[r - 1], c[r - 1]};
  for (size_t i = 0; i + 3 < r; ++i) n.batch *= a[i];
  return n;
}

ffi::Error attend(ffi::ThreadPool pool, F32 q, F32 k, F32 v, S32 first, S32 last, Flags visible,
                  float null, ffi::Result<F32> y, ffi::Result<F32> sums) {
  forward(pool, sizes_of(q, k, v), q.typed_data(), k.typed_data(), v.typed_data(),
          first.typed_data(), last.typed_data(), visible.typed_data(), null, y->typed_data(),
          sums->typed_data());
  return ffi::Error::Success();
}

ffi::Error pull_back(ffi::ThreadPool pool, F32 q, F32 k, F32 v, S32 first, S32 last, Flags visible,
                     F32 y, F32 sums, F32 d_y, ffi::Result<F32> d_q, ffi::Result<F32> d_k,
                     ffi::Result<F32> d_v) {
  const Sizes n = sizes_of(q, k, v);
  in_turns(pool, n.batch * n.G, [&](int64_t task) {
    const int64_t example = task / n.G;
    const Reads reads(first.typed_data() + example * n.T, last.typed_data() + example * n.T,
                      visible.typed_data() + example * n.S, n.S);
    backward_group(n, reads, example, task % n.G, q.typed_data(), k.typed_data(), v.typed_data(),
                   y.typed_data(), sums.typed_data(), d_y.typed_data(), d_q->typed_data(),
                   d_k->typed_data(), d_v->typed_data());
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(scanmax_attention, attend,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>().Arg<F32>().Arg<F32>()
                                  .Arg<S32>().Arg<S32>().Arg<Flags>()
                                  .Attr<float>("null")
                                  .Ret<F32>().Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(scanmax_attention_gradient, pull_back,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>().Arg<F32>().Arg<F32>()
                                  .Arg<S32>().Arg<S32>().Arg<Flags>()
                                  .Arg<F32>().Arg<F32>().Arg<F32>()
                                  .Ret<F32>().Ret<F32>().Ret<F32>());

}  // namespace scanmax
