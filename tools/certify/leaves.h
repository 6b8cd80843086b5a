/**
 * Leaves: the results of a run as lines of text, one a test, and the verdicts that follow from their numbers.
 *
 *     attention/gqa@fp32 passed|answer y:finite=0,element=3F8E04A1,slice=..,tensor=..,gain=../3DCCCCCD
 *     rope1d/nan@fp32 passed|error
 *     attention/gqa@fp32#again passed
 *
 * A name, a verdict, then for each step its reply and for each tensor of an answer its statistics: eight hexadecimal digits of a binary32 number, or 0; behind a
 * stroke the limit, where the rule's depends on the data; "~" for a rule that too few elements let untested. docs/certificate.md has the grammar.
 */
#ifndef MR3D_CERTIFY_LEAVES_H
#define MR3D_CERTIFY_LEAVES_H

#include "profile.h"
#include "rules.h"

/** The leaves of a run's results: the tests of its scope, in their order. Requires: the run asked them all. Ownership: the caller's. */
char *mr3d_leaves_print(const mr3d_run *, int n_tests, const mr3d_test tests[]);

/** What one leaf says. */
typedef enum mr3d_leaf_verdict { MR3D_LEAF_PASSED, MR3D_LEAF_FAILED, MR3D_LEAF_SKIPPED } mr3d_leaf_verdict;

/** What outputs one that passed records: whole numbers alone (or none), floating ones, or such of which one has no error at all. */
typedef enum mr3d_leaf_outputs { MR3D_LEAF_WHOLE, MR3D_LEAF_FLOATING, MR3D_LEAF_EQUAL } mr3d_leaf_outputs;

/** What leaves are held against. */
typedef struct mr3d_leaf_rules {
  const mr3d_suite *suite;
  const mr3d_challenge *challenge;
  mr3d_rules *rules;
} mr3d_leaf_rules;

/**
 * Reads the leaves of exactly these tests and applies the limits of this suite to their numbers: what passed must be within them, with every output and every rule that this suite
 * applies to the case's answers, and a request that must be refused must have been refused. `verdicts` and `outputs` hold n_tests. Errors name the test and what is wrong with it.
 */
mr3d_status mr3d_leaves_judge(const char *leaves, const mr3d_leaf_rules *, int n_tests, const mr3d_test tests[], mr3d_leaf_verdict verdicts[], mr3d_leaf_outputs outputs[],
                              mr3d_error *);

/** The leaf (without its line break) that begins at a line; how long it is. */
size_t mr3d_leaf_length(const char *line);

#endif
