/** The runner: cases x tiers against one backend, one result each; used by `mr3d check` and by the cmocka tests alike. */
#ifndef MR3D_CONFORM_RUN_H
#define MR3D_CONFORM_RUN_H

#include "backend.h"
#include "case.h"
#include "challenge.h"
#include "generation.h"
#include "mr3d/judge.h"
#include "posing.h"

/**
 * Which cases: NULL or 0 selects all but those of the whole model (tagged `whole`), which take minutes each: `tag` must name them, or `case_glob` be one's id.
 * The glob is fnmatch's; the others are words joined by commas.
 */
typedef struct mr3d_selection {
  const char *case_glob, *op, *level, *pitfall, *tag;
  uint32_t tiers; /**< bit per tier; 0: those the backend announced */
  bool without_slow, with_whole; /**< with_whole: they are nothing special, where cases are only listed */
} mr3d_selection;

typedef enum mr3d_verdict {
  MR3D_PASSED,
  MR3D_FAILED,
  MR3D_SKIPPED,
  MR3D_BROKEN, /**< the suite itself: reference and golden, or reference and case, do not agree */
} mr3d_verdict;

typedef struct mr3d_step_result {
  const char *op;
  bool asked;
  mr3d_reply reply; /**< answer freed, the rest kept */
  mr3d_judgement judgement;
} mr3d_step_result;

/** One mistake, or two at once, by their index among the mutants. */
typedef struct mr3d_suspect {
  int first, second; /**< second -1: alone */
} mr3d_suspect;

/** A case that was answered otherwise when it was asked again. Values of the first element that differs. */
typedef struct mr3d_difference {
  int repetition;                            /**< 2, 3 ..; 0: there is none */
  int step;
  mr3d_reply_kind first_kind, kind;
  char tensor[64], index[96];                /**< "": another kind of reply, or the first answer was too large to be kept; index "": another form */
  double first, again;
  int threads;                               /**< that it was given this time, where they differ from the first; 0: they don't */
  const mr3d_case *first_after, *after;      /**< asked right before, the first time and this time; NULL: nothing was */
  bool failed;                               /**< one of the two is outside the tolerance, or no answer */
  char reason[1024];                         /**< what is wrong with this one, or "" */
} mr3d_difference;

#define MR3D_MAX_SUSPECTS 12
#define MR3D_MAX_MUTANTS 1024

typedef struct mr3d_result {
  const mr3d_case *test;
  mr3d_tier tier;
  uint64_t seed;
  mr3d_variant variant; /**< MR3D_PLAIN, MR3D_OTHER_SEED or MR3D_BESIDE; MR3D_PLAIN where there is no challenge */
  mr3d_beside beside;   /**< of MR3D_BESIDE */
  bool again;           /**< is asked again, where cases are */
  bool failed_again;    /**< passed the first time, and `verdict` is what came of asking again */
  mr3d_verdict verdict;
  char reason[1024];    /**< one line: what was wrong, where, expected; or why skipped */
  char diagnosis[1024]; /**< "your output equals mask-length/unrepaired: ..." or what is certain instead, or "" */
  char mistake[256];    /**< slug/name of the mutant it equals, two joined by +, or "" */
  int n_suspects;       /**< mistakes that explain the answer alike; `mistake` is the likeliest */
  mr3d_suspect suspects[MR3D_MAX_SUSPECTS];
  bool is_exact;        /**< they give the very answer, not only within rounding */
  bool not_all_tried;   /**< time ran out before every known mistake was compared with the answer */
  uint64_t ruled_out[MR3D_MAX_MUTANTS / 64]; /**< bit per mutant that was compared, changes this answer, and explains little of what is wrong */
  mr3d_generation generation; /**< running free, where the case generates and passed */
  double golden_worst;  /**< reference against golden, over scale; NaN where there is none */
  mr3d_difference difference;
  double seconds;
  int n_steps;
  mr3d_step_result *steps;
} mr3d_result;

/** Whether a test of the selection is asked. */
typedef bool mr3d_wanted(void *user, const mr3d_case *, mr3d_tier, mr3d_variant);

typedef struct mr3d_run_options {
  const char *backend; /**< spec */
  mr3d_selection selection;
  mr3d_wanted *wanted; /**< narrows the selection further, or NULL; called with `wanted_user` */
  void *wanted_user;
  uint64_t seed;
  const mr3d_challenge *challenge; /**< draws each case's seed in place of `seed`, and what is asked in other ways (`repeat` and `shuffle` follow from it); NULL: none. Copied */
  double timeout; /**< seconds a request; 0: from the case's size */
  int threads;    /**< of all jobs together; 0: all processors */
  int jobs;       /**< processes that judge side by side, each with a backend of its own; 0: this one alone. See mr3d_team_run for what more than one requires */
  int repeat;            /**< how often each case is asked; at least 2 with `shuffle` */
  bool shuffle;          /**< asks again in an order drawn by `shuffle_seed`, each time of a backend begun anew; else the same one in the order of the cases */
  uint64_t shuffle_seed;
  bool no_isolation; /**< as in mr3d_backend_options, with `memory` and `secrets`; under a challenge a backend forgets, as there */
  const char *const *secrets;
  uint64_t memory;
  const char *golden_dir, *data_dir;
  const char *yardsticks_dir; /**< keeps yardstick runs from one call to the next; NULL: nowhere */
} mr3d_run_options;

typedef struct mr3d_run {
  mr3d_backend_info info; /**< copied strings */
  mr3d_run_options options;
  mr3d_challenge challenge; /**< what `options.challenge` points to, where it is not NULL */
  mr3d_suite *suite;
  int n_results;
  mr3d_result *results;
  int passed, failed, skipped, broken;
  int asked_again;      /**< of (repeat - 1) * n_results, or fewer under a challenge */
  int yardsticks_found; /**< runs taken from yardsticks_dir instead of computed */
  int n_golden_files; /**< verified by SHA-256 before anything ran */
  double seconds, diagnosis_seconds; /**< the latter within the former */
  char *remarks; /**< what the backend's files, or its end, say beside the results, or NULL */
} mr3d_run;

/** Of the whole model, tagged `whole`. */
bool mr3d_case_is_whole(const mr3d_case *);
bool mr3d_case_selected(const mr3d_case *, const mr3d_selection *);
/** Errors: a word that no case has (with the one that was meant), a selection that is empty. */
mr3d_status mr3d_selection_check(const mr3d_suite *, const mr3d_selection *, mr3d_error *);

/** "attention/gqa", "attention/gqa#batch". */
const char *mr3d_result_name(const mr3d_result *, char name[192]);

/** Frees what a result holds. */
void mr3d_result_clear(mr3d_result *);
/** Writes a result for the process that this one was forked from; false: it is gone. */
bool mr3d_result_tell(const mr3d_result *, int to);
/** Reads one, of a case that was there before the fork; the caller's. False: what is told ends there. */
bool mr3d_result_hear(mr3d_result *, int from);

/** Called after each result, and after each time one was asked again; false ends the run there. */
typedef bool mr3d_progress(void *user, const mr3d_run *so_far, int total);

/**
 * Runs the selection. `progress` may be NULL.
 * Errors (could not run, exit 1): backend does not start, golden set damaged, unknown selection words, an empty selection.
 * A run in which nothing was compared is a run, with exit status 1: its report says what was skipped, and why.
 * Ownership: on success *run is the caller's; mr3d_run_free.
 */
mr3d_status mr3d_run_suite(const mr3d_run_options *, mr3d_progress *progress, void *user, mr3d_run **, mr3d_error *);
void mr3d_run_free(mr3d_run **);

/** 0 compliant, 2 not, 1 could not run (nothing compared, or the suite itself is broken). */
int mr3d_run_exit_status(const mr3d_run *);

/** The reason for which most results were skipped, or "". */
const char *mr3d_run_common_skip(const mr3d_run *);

/**
 * The verdict on `out->reply` to the request that `truth` was stepped with last; `refusal` is the reference's message where it refused that, else
 * NULL. Fills the step's judgement and, unless it passed, the result's reason. Requires: out->op. timeout 0: not known.
 */
mr3d_verdict mr3d_judge_reply(mr3d_truth *, const mr3d_error *refusal, int step, double timeout, mr3d_result *, mr3d_step_result *out);

/** What earlier diagnoses of a run taught, and the processor time that they took. Zeroed: nothing yet. Holds no pointers. */
typedef struct mr3d_lessons {
  int n_known;
  struct {
    mr3d_suspect suspect;
    int explained; /**< cases */
  } known[MR3D_MAX_MUTANTS];
  double seconds;
} mr3d_lessons;

/**
 * Which mistake explains a failing answer: fills diagnosis and mistake (tools/conform/diagnose.c). `requests` are the steps asked so far,
 * the last one failed with `got`; `truth` is the case's, stepped and, where there was an answer to judge, judged as far.
 * One mistake shows in many cases, so what `lessons` holds is tried first.
 */
void mr3d_diagnose(mr3d_lessons *lessons, mr3d_result *, mr3d_truth *truth, int n_requests, mr3d_bundle *const requests[], const mr3d_reply *got,
                   mr3d_weights_cache *, int threads);
/**
 * After the last result: where several mistakes explain an answer alike, names the one that explains most of the run's, so that one mistake reads as one.
 */
void mr3d_diagnose_settle(mr3d_run *, const mr3d_lessons *);

#endif
