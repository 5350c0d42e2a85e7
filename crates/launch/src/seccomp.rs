//! The system calls of a sandbox: everything up to a known newest one, less what is named here.
//!
//! Calls newer than [`NEWEST_REVIEWED`] do not exist inside (ENOSYS), and with them the x32 calls, whose numbers are
//! larger still; 32-bit calls end the process. `clone3` does not exist either, because its flags are behind a pointer
//! that no filter can follow; libraries fall back to `clone`. Everything else that is refused gives EPERM.
//!
//! The filter is one layer of several: what it refuses, mostly, is refused by capabilities and namespaces too. It is
//! here for the kernel's bugs. Compiled once by the zygote; installed by each child while it still has CAP_SYS_ADMIN
//! in its user namespace, because the other way, no_new_privs, would break `sudo`.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// `file_setattr`, Linux 6.17; the same on x86-64 and aarch64.
const NEWEST_REVIEWED: u32 = 469;
/// `open_tree_attr`: libc has no name for it yet.
const SYS_OPEN_TREE_ATTR: i64 = 467;

/// Refused whatever their arguments.
const REFUSED: &[i64] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Other namespaces.
    libc::SYS_setns,
    // Large or young parts of the kernel that programs do without.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_memfd_secret,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Keyrings belong to users, and users are shared with the host in ways that namespaces don't cover.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    174, // create_module
    177, // get_kernel_syms
    178, // query_module
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Flags of `clone` and `unshare` that make namespaces. The last is CLONE_NEWTIME, which shares its bit with clone's
/// exit signal, so only `unshare` can ask for it.
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
const CLONE_NEWTIME: u64 = 0x80;

/// Address families that a sandbox may have sockets of.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Execution domains that change no more than what `uname` says, or address randomisation (debuggers).
const PERSONALITIES: [u64; 7] = [0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0x4_0008, 0xffff_ffff];

/// Pushing input into a terminal that somebody else reads.
const TERMINAL_INJECTION: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// The type of btrfs's own requests. Volumes are directories of one: who may make subvolumes in it, as everybody may, has
/// room that no quota counts.
const BTRFS: (u64, u64) = (0xff00, 0x9400);
/// Of the same type, and every file system's: sharing blocks between files, and asking for the label.
const OF_ANY_FILE_SYSTEM: [u64; 4] = [0x4004_9409, 0x4020_940d, 0xc018_9436, 0x8100_9431];

/// The filter as the kernel takes it.
pub(crate) fn compile() -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let bit = |argument: u8, bit: u64| rule([condition(argument, SeccompCmpOp::MaskedEq(bit), bit)?]);
    let mut flags = NAMESPACE_FLAGS.iter().map(|flag| bit(0, *flag as u32 as u64)).collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_clone, flags.clone());
    flags.push(bit(0, CLONE_NEWTIME)?);
    rules.insert(libc::SYS_unshare, flags);
    let other_family =
        FAMILIES.iter().map(|family| condition(0, SeccompCmpOp::Ne, *family as u64)).collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_socket, vec![rule(other_family.clone())?]);
    rules.insert(libc::SYS_socketpair, vec![rule(other_family)?]);
    let other_personality =
        PERSONALITIES.iter().map(|one| condition(0, SeccompCmpOp::Ne, *one)).collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_personality, vec![rule(other_personality)?]);
    let mut requests = TERMINAL_INJECTION
        .iter()
        .map(|request| rule([condition(1, SeccompCmpOp::Eq, *request)?]))
        .collect::<Result<Vec<_>, _>>()?;
    let mut btrfs = vec![condition(1, SeccompCmpOp::MaskedEq(BTRFS.0), BTRFS.1)?];
    for request in OF_ANY_FILE_SYSTEM {
        btrfs.push(condition(1, SeccompCmpOp::Ne, request)?);
    }
    requests.push(rule(btrfs)?);
    rules.insert(libc::SYS_ioctl, requests);

    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()?;
    Ok(with_numbers(&program))
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?)
}

fn rule(conditions: impl IntoIterator<Item = SeccompCondition>) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.into_iter().collect())?)
}

/// Instructions that seccompiler puts first: load the architecture, compare, end the process if it is another.
const ARCHITECTURE_CHECK: usize = 3;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ALWAYS: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Puts what is decided by the number alone right behind the check of the architecture, in front of the rules for
/// arguments. All jumps are relative and forward, so that what follows needs no change.
///
/// The numbers are searched for by halves: when a filter is installed, the kernel tries it on every number there is to
/// learn which it always allows, and a list of sixty in a row would be most of what installing costs.
fn with_numbers(program: &[sock_filter]) -> BpfProgram {
    let mut numbers: Vec<u32> =
        REFUSED.iter().chain(REFUSED_HERE).filter_map(|number| u32::try_from(*number).ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut decided = vec![
        // The number of the call is the first field.
        instruction(LOAD, 0, 0, 0),
        instruction(IF_GREATER, NEWEST_REVIEWED, 1, 0),
        instruction(IF_EQUAL, libc::SYS_clone3 as u32, 0, 1),
        instruction(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0),
    ];
    search(&numbers, &mut decided);
    let (check, rest) = program.split_at(ARCHITECTURE_CHECK.min(program.len()));
    [check, &decided, rest].concat()
}

/// Appends a search for the loaded number: refuses when it is among `numbers` (sorted), goes on behind otherwise.
fn search(numbers: &[u32], program: &mut BpfProgram) {
    /// Leaves of the search.
    const FEW: usize = 4;
    if numbers.len() <= FEW {
        for (at, number) in numbers.iter().enumerate() {
            // To the refusal, which lies behind the comparisons and a jump over it.
            let to_refusal = u8::try_from(numbers.len() - at).unwrap_or(u8::MAX);
            program.push(instruction(IF_EQUAL, *number, to_refusal, 0));
        }
        program.push(instruction(ALWAYS, 1, 0, 0));
        program.push(instruction(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0));
        return;
    }
    let (low, high) = numbers.split_at(numbers.len() / 2);
    let (mut below, mut above) = (Vec::new(), Vec::new());
    search(low, &mut below);
    search(high, &mut above);
    // A long jump over each half: conditional ones reach only 255 instructions.
    program.push(instruction(IF_AT_LEAST, high[0], 0, 1));
    program.push(instruction(ALWAYS, below.len() as u32 + 1, 0, 0));
    program.append(&mut below);
    program.push(instruction(ALWAYS, above.len() as u32, 0, 0));
    program.append(&mut above);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers, by interpreting it as the kernel does.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend_from_slice(&number.to_ne_bytes());
        data.extend_from_slice(&arch.to_ne_bytes());
        data.extend_from_slice(&0_u64.to_ne_bytes());
        arguments.iter().for_each(|argument| data.extend_from_slice(&argument.to_ne_bytes()));
        let (mut at, mut register) = (0_usize, 0_u32);
        loop {
            let one = &program[at];
            at += 1;
            match u32::from(one.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    let from = one.k as usize;
                    register = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                }
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => register &= one.k,
                code if code == libc::BPF_JMP | libc::BPF_JA => at += one.k as usize,
                code if code == libc::BPF_RET | libc::BPF_K => return one.k,
                code => {
                    let holds = match code & 0xf0 {
                        libc::BPF_JEQ => register == one.k,
                        libc::BPF_JGT => register > one.k,
                        libc::BPF_JGE => register >= one.k,
                        other => panic!("unexpected jump {other:#x}"),
                    };
                    at += usize::from(if holds { one.jt } else { one.jf });
                }
            }
        }
    }

    const X86_64: u32 = 0xC000_003E;
    const AARCH64: u32 = 0xC000_00B7;
    const HERE: u32 = if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 };
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn answer(number: i64, first: u64, second: u64) -> u32 {
        run(&compile().unwrap(), HERE, number as u32, [first, second, 0, 0, 0, 0])
    }

    #[test]
    fn what_is_named_is_refused_and_what_programs_need_is_not() {
        for number in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(answer(*number, 0, 0), EPERM, "call {number}");
        }
        for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_chroot, libc::SYS_seccomp, 463] {
            assert_eq!(answer(number, 0, 0), ALLOW, "call {number}");
        }
    }

    #[test]
    fn unknown_calls_and_clone3_do_not_exist() {
        for number in [libc::SYS_clone3, 470, 512, 0x4000_0000, 0x4000_0000 + 165, i64::from(u32::MAX)] {
            assert_eq!(answer(number, 0, 0), ENOSYS, "call {number:#x}");
        }
    }

    #[test]
    fn calls_of_another_architecture_end_the_process() {
        let i386 = 0x4000_0003;
        assert_eq!(run(&compile().unwrap(), i386, 21, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn no_flag_makes_a_namespace() {
        for flag in NAMESPACE_FLAGS {
            let flag = flag as u32 as u64;
            assert_eq!(answer(libc::SYS_clone, flag | libc::SIGCHLD as u64, 0), EPERM, "{flag:#x}");
            assert_eq!(answer(libc::SYS_unshare, flag, 0), EPERM, "{flag:#x}");
            // The kernel looks at the whole register of clone: more bits above don't help.
            assert_eq!(answer(libc::SYS_unshare, flag | 1 << 40, 0), EPERM, "{flag:#x}");
        }
        assert_eq!(answer(libc::SYS_unshare, CLONE_NEWTIME, 0), EPERM);
        let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
        assert_eq!(answer(libc::SYS_clone, thread as u64, 0), ALLOW);
        assert_eq!(answer(libc::SYS_clone, libc::SIGCHLD as u64, 0), ALLOW);
    }

    #[test]
    fn sockets_are_of_the_families_that_programs_use() {
        for family in 0..64 {
            let wanted = if FAMILIES.contains(&family) { ALLOW } else { EPERM };
            assert_eq!(answer(libc::SYS_socket, family as u64, 0), wanted, "family {family}");
        }
    }

    #[test]
    fn input_can_not_be_pushed_into_a_terminal() {
        assert_eq!(answer(libc::SYS_ioctl, 0, libc::TIOCSTI), EPERM);
        assert_eq!(answer(libc::SYS_ioctl, 0, libc::TIOCSTI | 1 << 32), EPERM);
        assert_eq!(answer(libc::SYS_ioctl, 0, libc::TIOCGWINSZ), ALLOW);
        assert_eq!(answer(libc::SYS_ioctl, 0, 0x5401), ALLOW);
        assert_eq!(answer(libc::SYS_personality, 0x40000, 0), ALLOW);
        assert_eq!(answer(libc::SYS_personality, 0x400000, 0), EPERM);
    }

    #[test]
    fn no_subvolume_is_made_and_blocks_can_still_be_shared() {
        // Make a subvolume, or a snapshot, in the old and the new way; delete one.
        for request in [0x5000_940e_u64, 0x5000_9418, 0x5000_9401, 0x5000_9417, 0x5000_940f] {
            assert_eq!(answer(libc::SYS_ioctl, 0, request), EPERM, "{request:#x}");
            assert_eq!(answer(libc::SYS_ioctl, 0, request | 1 << 32), EPERM, "{request:#x}");
        }
        for request in OF_ANY_FILE_SYSTEM {
            assert_eq!(answer(libc::SYS_ioctl, 0, request), ALLOW, "{request:#x}");
        }
    }
}
