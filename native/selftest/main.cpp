// A self-check of the kernel sets without Python. Every kind of native/kinds.h is checked on every set: one op against
// a loop over its definition (integers must be equal, real values within rounding), then networks of all kinds against
// the scalar set. Also what sanitizers, other compilers and other machines run:
//
//   cmake -S . -B build/selftest -DBBG_PYTHON=OFF [-DBBG_SANITIZE=address,undefined] && cmake --build build/selftest
//   build/selftest/selftest [cases]
#include "selftest.h"

using namespace selftest;

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 200;  // of binary convolutions; of others fewer
  int ops = 0;
  for (const KindRule& rule : bbg::kKinds) {
    const int some = rule.kind == Kind::binary_conv          ? cases
                     : rule.operands == 1 && rule.attributes ? cases / 3
                                                             : cases / 6;
    for (int i = 0; i < std::max(some, 5); ++i, ++ops) check_op(rule, i);
  }
  check_misuse();
  const int networks = std::max(cases / 4, 5);
  for (int i = 0; i < networks; ++i) check_network(i);
  std::printf("%d ops of %d kinds and %d networks: ok on", ops, int(std::size(bbg::kKinds)), networks);
  for (const std::string& set : supported_sets()) std::printf(" %s", set.c_str());
  std::printf("\n");
  return 0;
}
