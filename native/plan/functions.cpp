// A function, such as SiLU, of the result of a convolution: one pass over the memory instead of two.
//
//   conv --> v --> unary --> y and bytes        =>        conv with the function --> y and bytes
//
// Each number is the same to the bit: a register holds v as the memory would, and the function, rounding and threshold
// are computed by the same instructions. An epilogue of the unary op that does more than round would be a second one,
// so such an op stays.
#include "plan/functions.h"

#include "plan/moves.h"

namespace bbg {

void fuse_functions(Graph& graph) {
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    Op& conv = graph.ops[i];
    const bool numbers = conv.kind() == Kind::conv || conv.kind() == Kind::byte_conv;
    if (!numbers || conv.real == kNone || conv.bits != kNone || conv.bytes != kNone) continue;
    const int reader = graph.values[size_t(conv.real)].only_reader();
    if (reader == kNone) continue;
    Op& then = graph.ops[size_t(reader)];
    if (then.kind() != Kind::unary || !is_plain(then)) continue;
    conv.function_index = then.function_index;
    conv.real = then.real, conv.bits = then.bits, conv.bytes = then.bytes;
    for (int parameter : {BBG_BIT_THRESHOLD, BBG_BYTE_SCALE, BBG_BYTE_BIAS}) {
      conv.epilogue[size_t(parameter)] = then.epilogue[size_t(parameter)];
    }
    for (int result : {conv.real, conv.bits, conv.bytes}) {
      if (result != kNone) graph.values[size_t(result)].writer = int(i);
    }
    graph.set_operands(size_t(reader), {});
    then.real = then.bits = then.bytes = kNone;
  }
}

}  // namespace bbg
