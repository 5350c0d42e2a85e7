//! How long a guest may stay silent. Time in which it was ready to run and got no processor does not count.
//!
//! On a machine whose processors are all wanted by others, a machine gets a small part of one, and without hardware help
//! the first code of a copy takes seconds of that: it looks as silent as one that will never say anything, and booting
//! it instead takes many times longer. The kernel counts for each thread how long it waited (`schedstat`); where it
//! doesn't, all time counts.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is left to be waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Silence in which it could have spoken.
    pub silent: Duration,
    /// In any case.
    pub most: Duration,
}

impl Patience {
    fn is_over(self, passed: Duration, waited: Duration) -> bool {
        passed >= self.most || passed.saturating_sub(waited) >= self.silent
    }

    /// Comes back when it is over: what that came to, for people.
    pub async fn with(self, pid: i32) -> String {
        let (begun, before) = (Instant::now(), waited(pid));
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let (passed, waited) = (begun.elapsed(), waited(pid).saturating_sub(before));
            if self.is_over(passed, waited) {
                let [passed, waited] = [passed, waited].map(|time| time.as_secs_f64());
                return format!(
                    "it said nothing for {passed:.1} s; for {waited:.1} s of them it waited for a processor"
                );
            }
        }
    }
}

/// How long that one of a process's threads was ready and had no processor for which that was the longest.
fn waited(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waits = threads.filter_map(|thread| of_thread(&fs::read_to_string(thread.path().join("schedstat")).ok()?));
    waits.max().unwrap_or_default()
}

/// The second number: nanoseconds. The first is how long it ran, the third how often.
fn of_thread(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    const PATIENCE: Patience = Patience { silent: Duration::from_secs(15), most: Duration::from_secs(45) };

    fn over(passed: u64, waited: u64) -> bool {
        PATIENCE.is_over(Duration::from_secs(passed), Duration::from_secs(waited))
    }

    #[test]
    fn one_that_could_speak_is_given_up_and_one_that_gets_no_processor_is_not() {
        assert!(!over(14, 0) && over(15, 0));
        assert!(!over(29, 15) && over(30, 15));
        assert!(!over(44, 44) && over(45, 45));
        // Threads of another kernel's numbers.
        assert!(!over(3, 20));
        assert_eq!(of_thread("43886304948 138229093844 51771\n"), Some(Duration::from_nanos(138_229_093_844)));
        assert_eq!((of_thread(""), of_thread("1 x 3")), (None, None));
        assert_eq!(waited(-1), Duration::ZERO);
    }

    #[test]
    fn threads_that_share_a_processor_are_seen_to_wait_for_it() {
        static END: AtomicBool = AtomicBool::new(false);
        let allowed = sched_getaffinity(None).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
        let me = i32::try_from(std::process::id()).unwrap();
        let before = waited(me);
        let busy = move || {
            sched_setaffinity(None, &one).unwrap();
            while !END.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let threads = [std::thread::spawn(busy), std::thread::spawn(busy)];
        while waited(me) < before + Duration::from_millis(200) {
            std::thread::sleep(Duration::from_millis(10));
        }
        END.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
