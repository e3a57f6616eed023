// A matrix product with a bias: what the input gives the gates, and its gradients. Not a BLAS: large row counts only.
#pragma once
#include "shared.h"
#include "tile.h"

namespace VARIANT {

struct Multiply {
    static constexpr int64_t DEEP = 512, TALL = 16 * ROWS;
    const Product& s;
    float *packed, *rooms;
    Barrier* barrier;

    // w, lines k0 .. k1, in panels of W columns, each with its k one after the other.
    void pack(int64_t panel, int64_t k0, int64_t k1) const {
        float* to = packed + panel * DEEP * W;
        const int64_t j = panel * W, lanes = s.N - j;
        const float* w = s.w + j * s.w_n;
        if (s.w_n == 1) {
            for (int64_t k = k0; k < k1; k++) store(to + (k - k0) * W, load_some(w + k * s.w_k, lanes));
            return;
        }
        to_panel(w + k0, s.w_n, lanes, k1 - k0, to, W);
    }

    void rows(int64_t m0, int64_t m1, int64_t k0, int64_t k1, float* room) const {
        const float* a = s.x + m0 * s.x_m + k0 * s.x_k;
        int64_t a_row = s.x_m, a_k = s.x_k;
        if (s.x_k != 1) {  // its columns lie side by side: bring the lines together
            for (int64_t k = k0; k < k1; k++)
                memcpy(room + (k - k0) * TALL, s.x + k * s.x_k + m0, (m1 - m0) * 4);
            a = room, a_row = 1, a_k = TALL;
        }
        float* y = s.y + m0 * s.N;
        const Start start = k0 == 0 ? Start{s.bias, 0} : Start{y, s.N};
        const bool past = s.K <= DEEP && goes_past(s.y, s.N, s.M * s.N, 8 * LARGE);  // one pass over k gives all of it
        product(m1 - m0, s.N, k1 - k0, a, packed, start, y, {a_row, a_k, W, DEEP * W, s.N}, false, past);
    }

    void run(int64_t thread, int64_t threads) const {
        const Range panels = part(ceil_div(s.N, W), thread, threads), mine = part(s.M, thread, threads);
        for (int64_t k = 0; k < s.K || k == 0; k += DEEP) {
            const int64_t k1 = least(s.K, k + DEEP);
            for (int64_t p = panels.begin; p < panels.end; p++) pack(p, k, k1);
            wait_at(barrier, (int32_t)threads);
            for (int64_t m = mine.begin; m < mine.end; m += TALL)
                rows(m, least(mine.end, m + TALL), k, k1, rooms + thread * DEEP * TALL);
            fence();
            wait_at(barrier, (int32_t)threads);
        }
    }
};

inline void multiply(const Product* s) {
    const int64_t size = ceil_div(s->N, W) * W * Multiply::DEEP, room = Multiply::DEEP * Multiply::TALL;
    float* p = align(workspace(size + s->threads * room + 64));
    Barrier barrier;
    Multiply job = {*s, p, p + size, &barrier};
    run_parallel([](void* job, int64_t i, int64_t n) { ((Multiply*)job)->run(i, n); }, &job, s->threads);
}

}  // namespace VARIANT
