#include "judging.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "report.h"

bool mr3d_show_progress(void *user, const mr3d_run *run, int total) {
  const mr3d_shown_progress *progress = user;
  if (progress->shown) {
    char bar[21];
    const mr3d_result *last = &run->results[run->n_results - 1];
    int filled = 20 * run->n_results / total;
    memset(bar, ' ', 20);
    memset(bar, '#', (size_t)filled);
    bar[20] = '\0';
    if (run->asked_again) fprintf(stderr, "\r\033[K[%s] asked again %d", bar, run->asked_again);
    else fprintf(stderr, "\r\033[K[%s] %d/%d %s %.40s", bar, run->n_results, total, mr3d_tier_name(last->tier), last->test->id);
    if (run->failed + run->broken) fprintf(stderr, "  %d failed", run->failed + run->broken);
    fflush(stderr);
  }
  return !progress->fail_fast || run->failed + run->broken == 0;
}

void mr3d_ignore_stray_signals(void) {
  static const int strays[] = {SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGPOLL};
  for (size_t i = 0; i < sizeof strays / sizeof *strays; i++) signal(strays[i], SIG_IGN);
}

int mr3d_report_files(const mr3d_run *run, const char *junit, const char *json, const char *html) {
  mr3d_error error = {0};
  if (junit && mr3d_report_junit(run, junit, &error) != MR3D_OK) return mr3d_complain("--junit: %s", error.message);
  if (json && mr3d_report_json(run, json, &error) != MR3D_OK) return mr3d_complain("--json: %s", error.message);
  if (html && mr3d_report_html(run, html, &error) != MR3D_OK) return mr3d_complain("--html: %s", error.message);
  return 0;
}
