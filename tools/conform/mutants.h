/** Mutants: the reference with exactly one mistake (docs/pitfalls.md); the suite's proof that a case can fail. */
#ifndef MR3D_CONFORM_MUTANTS_H
#define MR3D_CONFORM_MUTANTS_H

#include "mr3d/server.h"

typedef struct mr3d_mutant {
  const char *slug, *name;     /**< "decode-rope", "position-text-only": mutant:decode-rope/position-text-only */
  const char *says;            /**< what is then true of an output: "the new token is rotated at position 231 instead of 786" */
  const char *ops;             /**< space-separated operators whose answers it can change */
  mr3d_operators operators;    /**< the table with the mistake in it */
  /**
   * Optional: changes the request itself, or answers one that must be refused (decorated inputs). Returns a new request,
   * or NULL when this request is not touched.
   */
  mr3d_bundle *(*decorate)(const mr3d_bundle *request);
  /** Optional: changes an answer. Returns a new answer, or NULL when this one is not touched. */
  mr3d_bundle *(*distort)(const mr3d_bundle *request, const mr3d_bundle *answer);
  bool only_whole;           /**< can't be thinned (thinning.h): it mixes tokens beyond the keys they see, or projects keys and values after attention */
  bool hangs;                  /**< never answers (mask-ownership/never-returns) */
  uint32_t tiers;              /**< bit per tier at which it is a mistake at all; 0: at every one */
  const char *harmless;        /**< why it is none at the others; NULL when tiers is 0 */
} mr3d_mutant;

int mr3d_mutant_count(void);
const mr3d_mutant *mr3d_mutant_at(int index);
/** "slug/name", or NULL. */
const mr3d_mutant *mr3d_mutant_named(const char *slug_and_name);
/** Whether it can change answers of the operator. */
bool mr3d_mutant_touches(const mr3d_mutant *, const char *op);
bool mr3d_mutant_is_mistake_at(const mr3d_mutant *, mr3d_tier);

/** A server with one mistake, with two at once, or, with none, the reference. */
typedef struct mr3d_mutant_server mr3d_mutant_server;

/** Whether two mutants replace different operators, so that a server can have both. */
bool mr3d_mutants_combine(const mr3d_mutant *, const mr3d_mutant *also);
/** The operator table with the mistakes in it. Requires: they combine. NULLs are no mistake. */
mr3d_operators mr3d_mutant_operators(const mr3d_mutant *, const mr3d_mutant *also);
/** `options->operators`, if given, stand in for those of the mutants. */
mr3d_mutant_server *mr3d_mutant_server_new(const mr3d_mutant *, const mr3d_mutant *also, const mr3d_server_options *options);
/** A mistake in one place of a decoder: a layer's number, or MR3D_TRACE_MODEL (mr3d/trace.h) for what is behind the last layer, the final norm and the head. */
typedef struct mr3d_mutant_place {
  const mr3d_mutant *mutant;
  int64_t layer;
} mr3d_mutant_place;
#define MR3D_EVERY_LAYER (-2) /**< in place of a number: no single place, as mr3d_mutant_server_new has it */
#define MR3D_MOST_PLACES 4

/**
 * A server whose decoder has mistakes in these places only, the reference's operators in all others. NULL where one is no mistake of its place's operators: one of
 * the request or of the answer, of the splice or the scan, or one that compares layers and so has no meaning in a single one; and where two of one place do not combine.
 */
mr3d_mutant_server *mr3d_mutant_server_new_at(int n, const mr3d_mutant_place *places, const mr3d_server_options *options);
void mr3d_mutant_server_free(mr3d_mutant_server **);
/** Gives mistakes that remember this server's memory, for operators called by hand as if they answered its next request; NULL ends that. */
void mr3d_mutant_server_lend_memory(mr3d_mutant_server *, const char *op, const char *config);
/** As mr3d_server_answer. Does not hang: who asks a mutant that never returns must know it. */
mr3d_status mr3d_mutant_server_answer(mr3d_mutant_server *, const mr3d_bundle *request, mr3d_bundle **answer, mr3d_error *);

#endif
