/* seccomp: the system calls by which a process reaches beyond itself are refused with EPERM, all others go on. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "isolation.h"

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#endif

#ifdef MACHINE

/* Refused whatever the arguments are. Numbers from 424 on are the same everywhere, and newer than many headers. */
static const unsigned refused[] = {
#ifdef SYS_fork
  SYS_fork, SYS_vfork,
#endif
#ifdef SYS_kexec_file_load
  SYS_kexec_file_load,
#endif
  /* other processes, and more rights */
  SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_unshare, SYS_setns, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo,
  424 /* pidfd_send_signal */, 434 /* pidfd_open */, 438 /* pidfd_getfd */, 440 /* process_madvise */, 448 /* process_mrelease */,
  SYS_setpgid, SYS_setsid,
  /* files by other ways than their path */
  SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_name_to_handle_at, SYS_open_by_handle_at,
  428 /* open_tree */, 429 /* move_mount */, 430 /* fsopen */, 431 /* fsconfig */, 432 /* fsmount */, 433 /* fspick */, 442 /* mount_setattr */,
  467 /* open_tree_attr */,
  /* the kernel and the machine */
  SYS_bpf, SYS_perf_event_open, SYS_kexec_load, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_reboot, SYS_syslog,
  SYS_userfaultfd, SYS_add_key, SYS_request_key, SYS_keyctl,
  /* sockets; io_uring opens them past this filter */
  SYS_socket, 425 /* io_uring_setup */, 426 /* io_uring_enter */, 427 /* io_uring_register */,
};
enum { N_REFUSED = sizeof refused / sizeof *refused };

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define REFUSE (SECCOMP_RET_ERRNO | EPERM)
#define CLONE3 435
#define X32_BIT 0x40000000u

int mr3d_filter_calls(void) {
  struct sock_filter program[2 * N_REFUSED + 32];
  unsigned short n = 0;
#define ADD(...) program[n++] = (struct sock_filter)__VA_ARGS__
  ADD(LOAD(arch));
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0)); /* another machine's calls have other numbers */
  ADD(RETURN(SECCOMP_RET_KILL_PROCESS));
  ADD(LOAD(nr));
#ifdef __x86_64__
  ADD(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1));
  ADD(RETURN(REFUSE));
#endif
  for (int i = 0; i < N_REFUSED; i++) {
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refused[i], 0, 1));
    ADD(RETURN(REFUSE));
  }
  /* Its arguments lie in memory, which no filter sees; where it does not exist, clone is used. */
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLONE3, 0, 1));
  ADD(RETURN(SECCOMP_RET_ERRNO | ENOSYS));
  /* Threads, but no processes. */
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4));
  ADD(LOAD(args[0]));
  ADD(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1));
  ADD(RETURN(SECCOMP_RET_ALLOW));
  ADD(RETURN(REFUSE));
  /* Its own limits, of no other. */
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 0, 4));
  ADD(LOAD(args[0]));
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0));
  ADD(RETURN(REFUSE));
  ADD(RETURN(SECCOMP_RET_ALLOW));
  /* Signals to itself, to no other. */
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_kill, 1, 0));
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_tgkill, 0, 3));
  ADD(LOAD(args[0]));
  ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)getpid(), 1, 0));
  ADD(RETURN(REFUSE));
  ADD(RETURN(SECCOMP_RET_ALLOW));
  struct sock_fprog filter = {n, program};
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0 ? 0 : errno;
}

#else

int mr3d_filter_calls(void) { return ENOSYS; }

#endif
