/** Merkle roots as RFC 6962 has them: its reference implementation's vectors, and that different lists have different roots. */
#include <sodium.h>

#include "../program.h"
#include "merkle.h"

/** Inputs and roots of the test data of Certificate Transparency's reference implementation. */
static void roots_are_those_of_certificate_transparency(void **state) {
  (void)state;
  static const char *const leaves[] = {"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"},
                    *const roots[] = {"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
                                      "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                                      "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
                                      "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};
  unsigned char hashed[8][MR3D_DIGEST], root[MR3D_DIGEST];
  char hex[MR3D_HEX_DIGEST];
  mr3d_merkle_root(0, hashed, root);
  assert_string_equal(sodium_bin2hex(hex, sizeof hex, root, sizeof root), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  for (int i = 0; i < 8; i++) {
    unsigned char bytes[16];
    size_t n = 0;
    sodium_hex2bin(bytes, sizeof bytes, leaves[i], strlen(leaves[i]), NULL, &n, NULL);
    mr3d_merkle_leaf(bytes, n, hashed[i]);
    mr3d_merkle_root((size_t)i + 1, hashed, root);
    assert_string_equal(sodium_bin2hex(hex, sizeof hex, root, sizeof root), roots[i]);
  }
}

static void lists_that_differ_have_other_roots(void **state) {
  (void)state;
  static const char *const lists[] = {"", "\n", "a\n", "a\na\n", "a\nb\n", "b\na\n", "a\nb\nb\n", "a\nb\na\nb\n", "ab\n", "a\nb\nc\n", "a\nb\nc\nc\n", "a\nb\nc\n\n"};
  enum { n_lists = sizeof lists / sizeof *lists };
  char roots[n_lists][MR3D_HEX_DIGEST];
  for (int i = 0; i < n_lists; i++) {
    mr3d_merkle_of_lines(lists[i], roots[i]);
    for (int k = 0; k < i; k++) assert_string_not_equal(roots[i], roots[k]);
  }
  char again[MR3D_HEX_DIGEST];
  assert_int_equal(mr3d_merkle_of_lines("a\nb\nc\n", again), 3);
  assert_string_equal(again, roots[9]);
}

/** No node can stand for a leaf: the two are hashed behind different bytes. */
static void a_node_is_no_leaf(void **state) {
  (void)state;
  unsigned char leaves[2][MR3D_DIGEST], root[MR3D_DIGEST], both[2 * MR3D_DIGEST], forged[MR3D_DIGEST];
  mr3d_merkle_leaf("a", 1, leaves[0]);
  mr3d_merkle_leaf("b", 1, leaves[1]);
  mr3d_merkle_root(2, leaves, root);
  memcpy(both, leaves, sizeof both);
  mr3d_merkle_leaf(both, sizeof both, forged);
  assert_memory_not_equal(root, forged, sizeof root);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(roots_are_those_of_certificate_transparency), cmocka_unit_test(lists_that_differ_have_other_roots), cmocka_unit_test(a_node_is_no_leaf)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
