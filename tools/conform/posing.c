#include "posing.h"

#include <stdlib.h>
#include <string.h>

#include "challenge.h"

void mr3d_posing_open(mr3d_posing *p, const mr3d_suite *suite, const mr3d_case *test, mr3d_tier tier, uint64_t seed, const char *scratch, mr3d_weights_cache *weights,
                      int threads) {
  *p = (mr3d_posing){.suite = suite, .test = test, .tier = tier, .seed = seed, .scratch = scratch};
  p->truth = mr3d_truth_new(tier, NULL, weights, threads);
  p->requests = mr3d_allocate(test->n_steps, sizeof *p->requests);
  p->answers = mr3d_allocate(test->n_steps, sizeof *p->answers);
}

void mr3d_posing_close(mr3d_posing *p) {
  mr3d_truth_free(&p->truth); /* borrows the requests, so first */
  for (int s = 0; s < p->test->n_steps; s++) mr3d_bundle_free(&p->requests[s]);
  free(p->requests);
  free(p->answers);
}

mr3d_status mr3d_posing_request(mr3d_posing *p, int step, mr3d_error *error) {
  const char *set = p->test->steps[step].weights;
  char path[4096];
  mr3d_status status = set ? mr3d_suite_weights(p->suite, set, p->tier, p->seed, p->scratch, path, error) : MR3D_OK;
  if (status != MR3D_OK) return status;
  mr3d_bundle *own = NULL, *other = NULL;
  status = mr3d_case_request(p->suite, p->test, step, p->tier, p->seed, set ? path : NULL, p->answers, p->beside ? &own : &p->requests[step], error);
  if (status != MR3D_OK || !p->beside) return status;
  status = mr3d_case_request(p->suite, p->test, step, p->tier, p->beside->seed, set ? path : NULL, p->answers, &other, error);
  if (status == MR3D_OK)
    status = mr3d_neighbours_join(p->beside->first ? other : own, p->beside->first ? own : other, own, &p->requests[step], error);
  mr3d_bundle_free(&own);
  mr3d_bundle_free(&other);
  return status;
}

mr3d_status mr3d_posing_answer(mr3d_posing *p, int step, mr3d_error *refusal, mr3d_error *error) {
  const mr3d_step *expected = &p->test->steps[step];
  const mr3d_bundle *answer = NULL;
  mr3d_error own = {0};
  if (!refusal) refusal = &own;
  mr3d_status status = mr3d_truth_step(p->truth, p->requests[step], &answer, refusal);
  if (status != MR3D_OK && !expected->expect_error)
    return mr3d_fail(error, MR3D_INVALID, "the reference refuses step %d (%s), an answer is expected: %.700s", step, expected->op, refusal->message);
  if (status == MR3D_OK && expected->expect_error)
    return mr3d_fail(error, MR3D_INVALID, "the reference answers step %d (%s), which must be refused", step, expected->op);
  for (int i = 0; i < expected->n_message; i++)
    if (!strstr(refusal->message, expected->message[i]))
      return mr3d_fail(error, MR3D_INVALID, "the reference's message at step %d lacks \"%s\": %.600s", step, expected->message[i], refusal->message);
  p->answers[step] = (mr3d_bundle *)answer; /* read only from here on; the array's type is that of mr3d_case_request */
  return MR3D_OK;
}
