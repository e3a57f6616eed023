// One step of W units of each recurrent cell, and its gradient. The same names and the same order as the reference
// in cells/rnn.py, lstm.py, gru.py and slstm.py: change them together.
//
// G gates; STATES beside h, of which the backward needs the first KEPT; KEEPS: what a step keeps, its KEPT states
// last. `step` turns pre-activations and the states before into the new h; `back` does the same backwards: it takes
// d h and the d of the states after, which it turns into the d of those before, and gives d pre.
#pragma once
#include "vec.h"

namespace VARIANT {

template <bool RELU> struct RNN {
    static constexpr int G = 1, STATES = 0, KEPT = 0, KEEPS = 0, BESIDE = 4;
    static constexpr bool APART = false;
    static constexpr bool PROJECTS = false;

    static V step(const V* pre, V, V, V*, V*) { return RELU ? vmax(V{}, pre[0]) : tanh(pre[0]); }

    static V back(const V*, const V*, V h, V, V dh, V*, V* d_pre, V*) {
        d_pre[0] = RELU ? (h <= V{} ? V{} : dh) : dh * (1.f - h * h);
        return V{};
    }
};

template <bool FORGETS> struct LSTM {
    static constexpr int G = FORGETS ? 4 : 3, STATES = 1, KEPT = 1, KEEPS = G + 1, BESIDE = 1;
    static constexpr bool APART = false;
    static constexpr bool PROJECTS = true;  // its h may be projected; `back` then wants d of what was
    static constexpr int I = 0, F = 1, Z = G - 2, O = G - 1;  // Z: PyTorch's g

    static V step(const V* pre, V, V, V* c, V* keep) {
        const V i = sigmoid(pre[I]), g = tanh(pre[Z]), o = sigmoid(pre[O]);
        const V f = FORGETS ? sigmoid(pre[F]) : splat(1.f);
        c[0] = f * c[0] + i * g;
        if (keep) {
            if (FORGETS) keep[F] = f;
            keep[I] = i, keep[Z] = g, keep[O] = o, keep[G] = c[0];
        }
        return o * tanh(c[0]);
    }

    static V output(const V* kept) { return kept[O] * tanh(kept[G]); }

    static V back(const V* kept, const V* c_before, V, V, V dh, V* dc, V* d_pre, V*) {
        const V i = kept[I], g = kept[Z], o = kept[O], tanh_c = tanh(kept[G]);
        const V d_c = dc[0] + dh * o * (1.f - tanh_c * tanh_c);
        d_pre[I] = d_c * g * i * (1.f - i);
        d_pre[Z] = d_c * i * (1.f - g * g);
        d_pre[O] = dh * tanh_c * o * (1.f - o);
        if (FORGETS) d_pre[F] = d_c * c_before[0] * kept[F] * (1.f - kept[F]);
        dc[0] = FORGETS ? d_c * kept[F] : d_c;
        return V{};
    }
};

// Its candidate's recurrent product, R_n h + bias, stands apart: the reset gate scales it.
struct GRU {
    static constexpr int G = 3, STATES = 0, KEPT = 0, KEEPS = 4, BESIDE = 1;
    static constexpr bool APART = true;
    static constexpr bool PROJECTS = false;

    static V step(const V* pre, V x, V h, V*, V* keep) {
        const V r = sigmoid(pre[0]), z = sigmoid(pre[1]), recurrent = pre[2];
        const V n = tanh(x + r * recurrent);
        if (keep) keep[0] = r, keep[1] = z, keep[2] = n, keep[3] = recurrent;
        return z * h + (1.f - z) * n;
    }

    static V back(const V* kept, const V*, V, V h_before, V dh, V*, V* d_pre, V* d_recurrent) {
        const V r = kept[0], z = kept[1], n = kept[2], recurrent = kept[3];
        const V d_n_pre = dh * (1.f - z) * (1.f - n * n);
        d_pre[0] = d_n_pre * recurrent * r * (1.f - r);
        d_pre[1] = dh * (h_before - n) * z * (1.f - z);
        d_pre[2] = d_n_pre;
        *d_recurrent = d_n_pre * r;
        return dh * z;
    }
};

template <bool SIGMOID> struct SLSTM {
    static constexpr int G = 4, STATES = 3, KEPT = 2, KEEPS = 6, BESIDE = 1;
    static constexpr bool APART = false;
    static constexpr bool PROJECTS = false;

    static V step(const V* pre, V, V, V* state, V* keep) {
        const V i_pre = pre[0], f_pre = pre[1];
        V &c = state[0], &n = state[1], &m = state[2];
        const V nothing = splat(-__builtin_inff());
        const LogSigmoid gate = SIGMOID ? log_sigmoid(f_pre) : LogSigmoid{f_pre, splat(1.f)};
        const V kept = gate.value + m;
        m = vmax(kept, i_pre);                     // (15)
        const V scale = m == nothing ? V{} : m;    // nothing written yet: both weights are 0
        const V i = exp(i_pre - scale);            // (16)
        const V f = exp(kept - scale);             // (17)
        const V z = tanh(pre[2]), o = sigmoid(pre[3]);
        c = f * c + i * z;                         // (8)
        n = f * n + i;                             // (9)
        // One of i and f is always 1 (both 0 where n is): the other is kept, f with a minus, even where it is -0.
        if (keep) {
            keep[0] = f < splat(1.f) ? -f : i;
            keep[1] = z, keep[2] = o, keep[3] = gate.slope, keep[4] = c, keep[5] = n;
        }
        return o * (c / (m == nothing ? splat(1.f) : n));  // (10)
    }

    // m carries no gradient: c and n are differentiated at fixed m.
    static V back(const V* kept, const V* before, V, V, V dh, V* d_state, V* d_pre, V*) {
        const V z = kept[1], o = kept[2], slope = kept[3], c = kept[4], n = kept[5];
        const V other = n == V{} ? V{} : splat(1.f);
        const V i = (VI)kept[0] < 0 ? other : kept[0], f = (VI)kept[0] < 0 ? -kept[0] : other;
        const V c_before = before[0], n_before = before[1];
        const V part = 1.f / (n == V{} ? splat(1.f) : n);  // n is 0 while nothing was written
        const V ratio = c * part;
        const V dc = d_state[0] + dh * o * part;
        const V dn = d_state[1] - dh * o * ratio * part;
        d_pre[0] = i * (z * dc + dn);
        d_pre[1] = f * (c_before * dc + n_before * dn) * slope;
        d_pre[2] = i * (1.f - z * z) * dc;
        d_pre[3] = dh * ratio * o * (1.f - o);
        d_state[0] = f * dc;
        d_state[1] = f * dn;
        return V{};
    }
};

}  // namespace VARIANT
