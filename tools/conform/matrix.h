/**
 * The kill matrix: every mutant against every case. It proves that the suite catches each mistake, and says which cases
 * catch nothing that others don't (docs/cli.md, "mutants").
 */
#ifndef MR3D_CONFORM_MATRIX_H
#define MR3D_CONFORM_MATRIX_H

#include "mutants.h"
#include "run.h"

typedef enum mr3d_cell_state {
  MR3D_CELL_UNTOUCHED, /**< no step of the case asks an operator that the mistake can change, or the case or mistake is none of this tier */
  MR3D_CELL_EQUAL,     /**< asked, and answered as the reference does: the mistake does not show there */
  MR3D_CELL_HIDDEN,    /**< answered otherwise, but within tolerance */
  MR3D_CELL_KILLED,
} mr3d_cell_state;

typedef struct mr3d_cell {
  uint8_t state;    /**< mr3d_cell_state */
  bool not_judged;  /**< killed by answering what must be refused, by refusing, by silence or by a wrong shape: `size` means nothing */
  float size;       /**< the largest statistic over its limit, up to the step that killed it: above 1 where killed */
} mr3d_cell;

typedef struct mr3d_matrix_options {
  mr3d_selection selection;    /**< cases, and the tiers (0: fp64 and fp32) */
  const char *without;         /**< glob of cases left out; NULL: none */
  const char *mutant_glob;     /**< "slug/name" by fnmatch; NULL: all */
  const char *mutant_pitfall;  /**< words joined by commas; NULL: all */
  uint64_t seed;
  int jobs;                    /**< processes; 0: one a processor */
  const char *golden_dir, *data_dir;
} mr3d_matrix_options;

typedef struct mr3d_matrix {
  mr3d_suite *suite;
  int n_cases, n_mutants, n_tiers;
  const mr3d_case **cases;
  const mr3d_mutant **mutants;
  mr3d_tier tiers[MR3D_N_TIERS];
  int left_out;                /**< selected cases that need the data folder */
  int not_asked;               /**< mutants left out, because cases were selected and none of them asks their operators */
  mr3d_cell *cells;            /**< [tiers][cases][mutants] */
  float *case_seconds;         /**< [tiers][cases], of one process */
  uint64_t seed;
  int jobs;
  double seconds;
  char selected[600];          /**< the options that narrow cases or mutants, each behind a blank; "": all, but for what is slow */
} mr3d_matrix;

/** Called now and then while it runs. */
typedef void mr3d_matrix_progress(void *user, int done, int total);

/** Errors: an empty selection of cases or of mutants; a case on which the reference does not do as the case says; a worker that died. */
mr3d_status mr3d_matrix_run(const mr3d_matrix_options *, mr3d_matrix_progress *, void *user, mr3d_matrix **, mr3d_error *);
void mr3d_matrix_free(mr3d_matrix **);

mr3d_cell mr3d_matrix_cell(const mr3d_matrix *, int tier, int test, int mutant);

/** One mutant at one tier. */
typedef struct mr3d_matrix_row {
  bool mistake;             /**< false: the mutant is no mistake at this tier (mutant->harmless) */
  int touched, killed, hidden, equal;
  int first_killer;         /**< index of a case, the first that kills it; -1: none */
  float largest;            /**< `size` of the cell nearest to a kill, where none kills */
  int largest_case;
} mr3d_matrix_row;
mr3d_matrix_row mr3d_matrix_row_of(const mr3d_matrix *, int tier, int mutant);
/** A mistake at that tier which no case kills. */
bool mr3d_matrix_survives(const mr3d_matrix *, int tier, int mutant);
/** Whether fp64 or fp32 is among the tiers where it survives: then the suite has a hole. */
int mr3d_matrix_holes(const mr3d_matrix *);

/** A case is needed when it alone kills some mutant at some tier; of others, those that kill nothing are counted apart. */
bool mr3d_matrix_is_needed(const mr3d_matrix *, int test);
int mr3d_matrix_kills(const mr3d_matrix *, int test);
/**
 * The slug, when a case names a pitfall of which it kills no mutant at any tier, though there are some: its annotation is not proven. NULL for
 * requests that must be refused: they fail whoever answers.
 */
const char *mr3d_matrix_unproven(const mr3d_matrix *, int test, int pitfall);

/** Errors: cannot write. */
mr3d_status mr3d_matrix_json(const mr3d_matrix *, const char *path, mr3d_error *);
mr3d_status mr3d_matrix_html(const mr3d_matrix *, const char *path, mr3d_error *);

#endif
