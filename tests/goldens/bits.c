/**
 * The reference's answers to the suite's cases have the same bits with every width of vectors and number of threads.
 *
 * The SHA-256 of all answers is printed: builds by other compilers and at other levels of optimisation, on one machine, print the same (.ci/run compares
 * them). Elsewhere it may differ, as libm's exp, sin and pow do.
 */
#include <sodium.h>

#include "../../ref/base/product.h"
#include "../suite.h"
#include "posing.h"
#include "scratch.h"

static bool tagged(const mr3d_case *test, const char *tag) {
  for (int t = 0; t < test->n_tags; t++)
    if (strcmp(test->tags[t], tag) == 0) return true;
  return false;
}

static void add_answer(crypto_hash_sha256_state *hash, const mr3d_bundle *answer) {
  for (int i = 0; answer && i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(answer, i);
    crypto_hash_sha256_update(hash, (const unsigned char *)t->name, strlen(t->name) + 1);
    crypto_hash_sha256_update(hash, t->data, (size_t)mr3d_tensor_count(t) * mr3d_dtype_size(t->dtype));
  }
}

/** Digest of all answers at fp64; returns how many there are. */
static int answers_digest(const mr3d_suite *suite, const char *scratch, int threads, char hex[65]) {
  crypto_hash_sha256_state hash;
  unsigned char digest[crypto_hash_sha256_BYTES];
  int answers = 0;
  crypto_hash_sha256_init(&hash);
  for (int c = 0; c < mr3d_suite_count(suite); c++) {
    const mr3d_case *test = mr3d_suite_at(suite, c);
    if (tagged(test, "slow") || tagged(test, "wide") || tagged(test, "canonical") || test->needs_data) continue;
    mr3d_posing posing;
    mr3d_error error = {0};
    mr3d_posing_open(&posing, suite, test, MR3D_FP64, 0, scratch, NULL, threads);
    for (int s = 0; s < test->n_steps; s++) {
      if (mr3d_posing_request(&posing, s, &error) != MR3D_OK || mr3d_posing_answer(&posing, s, NULL, &error) != MR3D_OK) fail_msg("%s: %s", test->id, error.message);
      add_answer(&hash, posing.answers[s]);
      answers += posing.answers[s] != NULL;
    }
    mr3d_posing_close(&posing);
  }
  crypto_hash_sha256_final(&hash, digest);
  sodium_bin2hex(hex, 65, digest, sizeof digest);
  return answers;
}

static void vectors_and_threads_leave_every_bit(void **state) {
  (void)state;
  mr3d_suite *suite = NULL;
  mr3d_error error = {0};
  const char *scratch;
  char first[65] = "", hex[65];
  assert_int_equal(mr3d_suite_open(committed_set(), NULL, &suite, &error), MR3D_OK);
  assert_int_equal(mr3d_scratch_open(&scratch, &error), MR3D_OK);
  for (int bytes = 64, threads = 2; bytes >= 16; bytes /= 2, threads = 3 - threads) {
    if (mr3d_product_widest(bytes) != bytes) continue;
    const int answers = answers_digest(suite, scratch, threads, hex);
    if (!*first) {
      memcpy(first, hex, sizeof first);
      print_message("%d answers of the reference, SHA-256 %s\n", answers, first);
    }
    if (strcmp(first, hex) != 0) fail_msg("with vectors of %d bytes and %d threads the answers' digest is %s", bytes, threads, hex);
  }
  mr3d_product_widest(64);
  mr3d_scratch_close();
  mr3d_suite_close(&suite);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(vectors_and_threads_leave_every_bit)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
