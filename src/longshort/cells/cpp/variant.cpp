// Everything, for one instruction set: compiled with -DVARIANT=name -DWIDTH=floats and the flags of that set.
// No header of the standard library with code in it: what such code compiles to must not be shared between sets.
#include "memory.h"
#include "product.h"
#include "recurrent.h"

namespace VARIANT {

// The functions of the gates by themselves, for the tests.
static void gate(int64_t which, const float* x, float* y, int64_t n) {
    for (int64_t j = 0; j < n; j += W) {
        const V v = load_some(x + j, n - j);
        store_some(y + j, which == 0 ? exp(v) : which == 1 ? tanh(v) : which == 2 ? sigmoid(v) : log_sigmoid(v).value,
                   n - j);
    }
}

#define TEXT(x) #x
#define NAME(x) TEXT(x)
extern const Functions functions;
const Functions functions = {NAME(VARIANT), WIDTH, recurrent, memory, multiply, gate};

}  // namespace VARIANT
