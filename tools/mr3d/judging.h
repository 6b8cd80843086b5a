/** What the commands that judge a backend, check and certify, have in common. */
#ifndef MR3D_JUDGING_H
#define MR3D_JUDGING_H

#include "run.h"

typedef struct mr3d_shown_progress {
  bool shown;     /**< on stderr */
  bool fail_fast; /**< ends the run after the first failure */
} mr3d_shown_progress;

/** One line on stderr, rewritten: "[#####     ] 120/540 fp32 attention/gqa  2 failed". An mr3d_progress; `user` is an mr3d_shown_progress. */
bool mr3d_show_progress(void *user, const mr3d_run *, int total);

/** A backend that runs as the user could end this program by any of these; those by which the user does so stay. */
void mr3d_ignore_stray_signals(void);

/** Writes the reports asked for (NULL: not); 1 when one could not be written, which is printed. */
int mr3d_report_files(const mr3d_run *, const char *junit, const char *json, const char *html);

#endif
