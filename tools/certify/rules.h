/**
 * golden/rules.json: what the judge looks at in each case's answers, measured on the reference, so that a recorded result cannot leave a rule out; and which answers could be
 * stored, since those to other inputs pass.
 *
 *     "attention/gqa": {"of": "3f9a0c77d01b4e52", "fixed": false, "steps": ["y=element,slice,tensor,gain"]}
 *
 * `of` begins the SHA-256 of the case and its weights as JSON; `steps` has for each step its outputs, each with the rules that its numbers of elements and rows allow whatever the
 * inputs are ("exact" alone: integers; none: no numbers), or "error". Beside those, a rule may apply to some inputs (top1: where there is a clear favourite).
 */
#ifndef MR3D_CERTIFY_RULES_H
#define MR3D_CERTIFY_RULES_H

#include "posing.h"

#define MR3D_MOST_RULES 512 /* bytes of a step's rules */

typedef struct mr3d_rules mr3d_rules;

/** Reads the table beside the suite. Errors: it is missing or malformed. Ownership: mr3d_rules_close. `suite` is borrowed. */
mr3d_status mr3d_rules_open(const mr3d_suite *, mr3d_rules **, mr3d_error *);
void mr3d_rules_close(mr3d_rules **);

/** "query=element,slice key=element": of one step. Errors: the table says nothing of the case, or of another number of steps. */
mr3d_status mr3d_rules_step(mr3d_rules *, const mr3d_case *, int step, const char **rules, mr3d_error *);
/** Whether such text names an output. */
bool mr3d_rules_names(const char *rules, const char *tensor);
/** Whether it has a rule for an output; any, where `rule` is NULL. */
bool mr3d_rules_has(const char *rules, const char *tensor, const char *rule);
/** Whether the answers to other inputs pass, so that no nonce can tell a stored answer: refusals, results that the inputs do not change. Errors: as above. */
mr3d_status mr3d_rules_fixed(mr3d_rules *, const mr3d_case *, bool *fixed, mr3d_error *);

/** The rules that apply to a step of one test, asked of the reference itself: slow, and right also where they depend on the inputs. `seed` and `beside` as in mr3d_posing. */
mr3d_status mr3d_rules_ask(const mr3d_suite *, const mr3d_case *, mr3d_tier, uint64_t seed, const mr3d_beside *beside, int step, char rules[MR3D_MOST_RULES], mr3d_error *);

/** Called before a case is measured; false ends it. */
typedef bool mr3d_rules_progress(void *user, const mr3d_case *);
/**
 * Measures all cases that profiles can hold, or takes what `old` (may be NULL) says of a case that has not changed since. `n_measured` counts the others. Ownership: *text is the
 * caller's. Errors: the reference does not do as a case expects.
 */
mr3d_status mr3d_rules_measure(const mr3d_suite *, mr3d_rules *old, int threads, mr3d_rules_progress *, void *user, char **text, int *n_measured, mr3d_error *);

#endif
