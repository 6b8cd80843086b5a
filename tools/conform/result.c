/** A result as one process holds it and as it is told to another. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "team.h"

const char *mr3d_result_name(const mr3d_result *result, char name[192]) {
  snprintf(name, 192, "%.180s%s", result->test->id, mr3d_variant_suffix(result->variant));
  return name;
}

void mr3d_result_clear(mr3d_result *result) {
  for (int s = 0; result->steps && s < result->test->n_steps; s++) {
    mr3d_reply_clear(&result->steps[s].reply);
    mr3d_judgement_clear(&result->steps[s].judgement);
  }
  free(result->steps);
  result->steps = NULL;
}

/* Both ends are the same program, forked: structures go as they are, and what they point to of the suite and the program is at the same place. What
 * they own follows: the steps, then each one's log and tensors. */

bool mr3d_result_tell(const mr3d_result *result, int to) {
  bool told = mr3d_tell(to, result, sizeof *result) && mr3d_tell(to, result->steps, (size_t)result->n_steps * sizeof *result->steps);
  for (int s = 0; s < result->n_steps && told; s++) {
    const mr3d_step_result *step = &result->steps[s];
    size_t length = step->reply.log ? strlen(step->reply.log) : 0;
    told = mr3d_tell(to, &length, sizeof length) && mr3d_tell(to, step->reply.log, length) &&
           mr3d_tell(to, step->judgement.tensors, (size_t)step->judgement.n_tensors * sizeof *step->judgement.tensors);
  }
  return told;
}

bool mr3d_result_hear(mr3d_result *out, int from) {
  mr3d_result result;
  if (!mr3d_told(from, &result, sizeof result)) return false;
  result.steps = mr3d_allocate(result.test->n_steps, sizeof *result.steps);
  bool told = mr3d_told(from, result.steps, (size_t)result.n_steps * sizeof *result.steps);
  for (int s = 0; s < result.n_steps; s++) {
    mr3d_step_result *step = &result.steps[s];
    size_t length = 0;
    told = told && mr3d_told(from, &length, sizeof length);
    step->reply.answer = NULL;
    step->reply.log = mr3d_allocate((long long)length + 1, 1);
    told = told && mr3d_told(from, step->reply.log, length);
    step->judgement.tensors = step->judgement.n_tensors ? mr3d_allocate(step->judgement.n_tensors, sizeof *step->judgement.tensors) : NULL;
    told = told && mr3d_told(from, step->judgement.tensors, (size_t)step->judgement.n_tensors * sizeof *step->judgement.tensors);
  }
  if (told) *out = result;
  else mr3d_result_clear(&result);
  return told;
}
