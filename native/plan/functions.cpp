// A function, such as SiLU, of the result of a convolution: one pass over the memory instead of two.
//
//   conv --> v --> unary --> y and bytes        =>        conv with the function --> y and bytes
//
// Each number is the same to the bit: a register holds v as the memory would, and the function, rounding and threshold
// are computed by the same instructions. An epilogue of the unary op that does more than round would be a second one,
// so such an op stays.
#include "plan/functions.h"

#include <algorithm>

#include "plan/moves.h"

namespace bbg {
namespace {

// The only op that reads `value`, as an operand; kNone if there is no such op.
int only_reader(const Graph& graph, int value) {
  const std::vector<int> outputs = graph.output_values();
  if (std::find(outputs.begin(), outputs.end(), value) != outputs.end()) return kNone;
  int reader = kNone, readers = 0;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    readers += int(std::count(op.operands.begin(), op.operands.end(), value)) + (op.shortcut == value);
    if (op.has_operand(value)) reader = int(i);
  }
  return readers == 1 ? reader : kNone;
}

}  // namespace

void fuse_functions(Graph& graph) {
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    Op& conv = graph.ops[i];
    const bool numbers = conv.kind() == Kind::conv || conv.kind() == Kind::byte_conv;
    if (!numbers || conv.real == kNone || conv.bits != kNone || conv.bytes != kNone) continue;
    const int reader = only_reader(graph, conv.real);
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
    then.operands.clear();
    then.real = then.bits = then.bytes = kNone;
  }
}

}  // namespace bbg
