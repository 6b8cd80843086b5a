/** What the files of the diagnosis share: a failing answer beside the reference's, and how far apart two answers are. */
#ifndef MR3D_CONFORM_DIAGNOSE_INTERNAL_H
#define MR3D_CONFORM_DIAGNOSE_INTERNAL_H

#include "judge_internal.h"
#include "mutants.h"
#include "run.h"
#include "trial.h"

#define MR3D_VISIBLE 6.0 /* units of noise from which on an element is wrong, not noisy */

/** One output: the backend's and the reference's, and the noise of each element. */
typedef struct mr3d_picture {
  const char *name;
  const mr3d_tensor *expected, *got;
  bool comparable, floating; /* one shape and kind of type */
  mr3d_output output;        /* where comparable and floating */
  double *noise;
} mr3d_picture;

typedef struct mr3d_scene {
  mr3d_result *result;
  mr3d_truth *truth;
  const mr3d_bundle *request, *answer, *reference; /* reference NULL: a refusal was due */
  const char *op;
  mr3d_tier tier;
  int n_pictures;
  mr3d_picture *pictures;
  mr3d_trial *trial;
} mr3d_scene;

/** Of one shape, and both floating or of one type. */
bool mr3d_comparable(const mr3d_tensor *, const mr3d_tensor *);

/** Requires: everything above `n_pictures` is set. */
void mr3d_scene_open(mr3d_scene *);
void mr3d_scene_close(mr3d_scene *);

/** A difference in units of noise, at most 1000: one wild element, or a NaN, is no more than that. */
double mr3d_units_of(double difference, double noise);

/** Squared distances of the backend's answer, over the rows that the mistake or the backend touches. */
typedef struct mr3d_distance {
  double to_mistake, to_reference;             /* in units of noise */
  double plain_to_mistake, plain_to_reference; /* of floating outputs, as they are: says which mistake is a part of what is wrong */
  int64_t n;
  bool impossible; /* other shapes, a missing tensor */
} mr3d_distance;

mr3d_distance mr3d_distance_to(const mr3d_scene *, const mr3d_bundle *mistake);
/** Close to the mistake where the reference is far: within a few units, and with a small part of the distance left. */
bool mr3d_distance_explains(const mr3d_distance *);

/** A bounded text under construction. */
typedef struct mr3d_text {
  char *at;
  size_t left;
} mr3d_text;

void mr3d_say(mr3d_text *, const char *format, ...) MR3D_PRINTF(2, 3);

/** Writes into the result's diagnosis what is certain about an answer that no mutant explains, and `why` none does (facts.c). */
void mr3d_say_facts(const mr3d_scene *, const char *why, mr3d_result *);
/** And about a refusal or a crash where an answer is due: which known sizes its message names. */
void mr3d_say_symptom(int n_requests, mr3d_bundle *const requests[], const mr3d_reply *, mr3d_result *);

#endif
