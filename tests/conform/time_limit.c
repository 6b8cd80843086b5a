/** Without --timeout a request has as long as its size deserves. */
#include "../program.h"
#include "small_suite.h"
#include "in_folder.h"

/* rmsnorm of rows x 1000 numbers, on which the subject hangs. */
#define HANGS(id, rows)                                                                                                                                            \
  "{\"id\": \"rmsnorm/" id "\", \"title\": \"rows that are never answered\", \"why\": \"a test\", \"level\": \"L0\", \"pitfalls\": [], \"tags\": [\"small\"], "  \
  "\"config\": " RMSNORM_CONFIG ", \"steps\": [{\"op\": \"rmsnorm\", \"meta\": {\"do\": \"hang\"}, \"inputs\": {\"x\": {\"shape\": [" rows                    \
  ", 1000], \"dtype\": \"tier\", \"dist\": \"normal\"}, \"weight\": {\"shape\": [1000], \"dtype\": \"tier\", \"dist\": \"const\"}}}]}"

static void a_small_request_has_20_seconds_and_a_large_one_a_second_a_million_numbers_more(void **state) {
  (void)state;
  make_set(folder, HANGS("small", "2") ", " HANGS("large", "5000"));
  const int status = mr3d("check --backend \"exec:'%s' plain\" --golden %s --tier fp32 --jobs 2 --json %s/r.json", getenv("MR3D_SUBJECT"), folder, folder);
  if (status != 2) fail_msg("exit status %d: %.2000s", status, output);
  const char *const limits[] = {"rmsnorm/small\".*no reply within 20 s", "rmsnorm/large\".*no reply within 25 s"};
  for (int i = 0; i < 2; i++) {
    char command[700];
    snprintf(command, sizeof command, "grep -q '%s' %s/r.json", limits[i], folder);
    if (run_command(command) != 0) fail_msg("not reported: %s", limits[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(a_small_request_has_20_seconds_and_a_large_one_a_second_a_million_numbers_more, make, drop),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
