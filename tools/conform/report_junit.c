/** JUnit XML: a suite for each tier, a test case for each case; for continuous integration. */
#include <stdlib.h>

#include "report.h"

static void write_case(FILE *to, const mr3d_run *run, const mr3d_result *result) {
  fprintf(to, "    <testcase classname=\"%s.%s\" name=\"%s\" time=\"%.3f\"", mr3d_tier_name(result->tier), mr3d_case_op(result->test),
          mr3d_result_name(result, (char[192]){0}), result->seconds);
  if (result->verdict == MR3D_PASSED) {
    fputs("/>\n", to);
    return;
  }
  const char *element = result->verdict == MR3D_FAILED ? "failure" : result->verdict == MR3D_SKIPPED ? "skipped" : "error";
  fprintf(to, ">\n      <%s message=\"", element);
  mr3d_write_escaped(to, result->reason);
  fputs(result->verdict == MR3D_SKIPPED ? "\"/>\n" : "\">", to);
  if (result->verdict != MR3D_SKIPPED) {
    char *again = mr3d_rerun_command(run, result);
    mr3d_write_escaped(to, result->reason);
    fputc('\n', to);
    if (result->diagnosis[0]) mr3d_write_escaped(to, result->diagnosis), fputc('\n', to);
    fputs("again: ", to);
    mr3d_write_escaped(to, again);
    fprintf(to, "</%s>\n", element);
    free(again);
  }
  if (*mr3d_result_log(result)) {
    fputs("      <system-err>", to);
    mr3d_write_escaped(to, mr3d_result_log(result));
    fputs("</system-err>\n", to);
  }
  fputs("    </testcase>\n", to);
}

mr3d_status mr3d_report_junit(const mr3d_run *run, const char *path, mr3d_error *error) {
  char *bytes = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  fprintf(to,
          "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"mr3d\" tests=\"%d\" failures=\"%d\" errors=\"%d\" skipped=\"%d\" "
          "time=\"%.3f\">\n",
          run->n_results, run->failed, run->broken, run->skipped, run->seconds);
  for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
    int count[4] = {0}, total = 0;
    double seconds = 0;
    for (int i = 0; i < run->n_results; i++)
      if (run->results[i].tier == (mr3d_tier)tier) total++, count[run->results[i].verdict]++, seconds += run->results[i].seconds;
    if (!total) continue;
    fprintf(to, "  <testsuite name=\"%s\" tests=\"%d\" failures=\"%d\" errors=\"%d\" skipped=\"%d\" time=\"%.3f\">\n",
            mr3d_tier_name((mr3d_tier)tier), total, count[MR3D_FAILED], count[MR3D_BROKEN], count[MR3D_SKIPPED], seconds);
    fputs("    <properties>\n      <property name=\"backend\" value=\"", to);
    mr3d_write_escaped(to, run->options.backend);
    fprintf(to, "\"/>\n      <property name=\"seed\" value=\"%llu\"/>\n    </properties>\n", (unsigned long long)run->options.seed);
    for (int i = 0; i < run->n_results; i++)
      if (run->results[i].tier == (mr3d_tier)tier) write_case(to, run, &run->results[i]);
    fputs("  </testsuite>\n", to);
  }
  fputs("</testsuites>\n", to);
  return mr3d_report_save(to, &bytes, &size, path, error);
}
