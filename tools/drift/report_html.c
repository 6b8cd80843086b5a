#include "drift_report.h"
mr3d_status mr3d_drift_report_html(const mr3d_drift_run *d, const mr3d_drift_verdict *v, const mr3d_drift_subject *s, const char *path, mr3d_error *error) {
  (void)d, (void)v, (void)s;
  return mr3d_fail(error, MR3D_UNSUPPORTED, "%s: not yet", path);
}
