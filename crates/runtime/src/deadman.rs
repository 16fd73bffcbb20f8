//! The dead-man timer: the kernel ends this process if it stands still for longer than others wait for it.
//!
//! - Owns one timer of the kernel whose signal is SIGKILL, and the thread that keeps it, the watchman. What may be done
//!   until when is decided elsewhere; it is told by [`DeadMan::follow`].
//! - While a right is in use the timer is armed, at the moment from which others may use it. A process that is stopped,
//!   frozen or without a processor by then is ended as it stands: it never goes on with a right that is over.
//! - Who is not standing still does not die: when a right lapses without having been renewed, the watchman runs, nothing
//!   uses the right any more, and it takes the timer back. It has the time between [`Lapse::at`] and [`Lapse::deadly`]
//!   for that. It is a thread of its own, so that a busy runtime of tasks costs no process its life.
//! - Who finds out later than that, because it stood still before the timer was armed, is ended when it goes on.
//! - The timer is never armed later than what was told last, but for [`SAME`]; a renewal may reach it late, by up to the time
//!   that the watchman has.
//! - Where the system has it, the clock is the one that also counts while the machine is suspended.
//! - The first process of a container gets none: the kernel throws away what would end it from inside.

use std::io;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

/// The watchman keeps nothing on it; a panic writes its last words from there.
const STACK: usize = 256 << 10;
/// Moments that are closer together than this are one: whoever tells them may compare clocks anew each time.
const SAME: Duration = Duration::from_millis(1);

/// When a right lapses that work of this process relies on, if it is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lapse {
    /// From now on nothing in this process uses it.
    pub at: Instant,
    /// From now on others may, so that a process that has not noticed must not go on. Not before `at`.
    pub deadly: Instant,
}

/// The dead-man timer of this process, which ends with this value.
#[derive(Debug)]
pub struct DeadMan {
    orders: Arc<Orders>,
    watchman: Option<JoinHandle<()>>,
}

/// What the watchman is told.
#[derive(Debug, Default)]
struct Orders {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What the process relies on, as far as the watchman has not noticed that it has lapsed.
    lapse: Option<Lapse>,
    /// When the kernel ends the process, as things are.
    armed: Option<Instant>,
    ends: bool,
}

impl DeadMan {
    /// Starts it, disarmed. An error if the system has no such timer, or its signal would not end this process.
    pub fn start() -> io::Result<Self> {
        let orders = Arc::<Orders>::default();
        let (made, is_made) = sync_channel(1);
        let told = Arc::clone(&orders);
        let watchman = Builder::new().name("dead-man".to_owned()).stack_size(STACK).spawn(move || {
            // Made here, because such a timer stays with its thread.
            let (fuse, outcome) = match Fuse::new() {
                Ok(fuse) => (Some(fuse), Ok(())),
                Err(error) => (None, Err(error)),
            };
            if made.send(outcome).is_ok()
                && let Some(fuse) = fuse
            {
                come_first();
                watch(fuse, &told);
            }
        })?;
        let ended = |_| io::Error::other("the thread of the dead-man timer ended at once");
        is_made.recv().map_err(ended)??;
        Ok(Self { orders, watchman: Some(watchman) })
    }

    /// Says what the process relies on from now on; `None`: on nothing, and nothing is under way any more.
    pub fn follow(&self, lapse: Option<Lapse>) {
        // Nobody can begin to rely on what has lapsed.
        let lapse = lapse.filter(|lapse| Instant::now() < lapse.at);
        let mut state = self.orders.state();
        state.lapse = lapse;
        let wakes = is_news(state.armed, lapse);
        drop(state);
        if wakes {
            self.orders.changed.notify_one();
        }
    }

    #[cfg(test)]
    fn is_armed(&self) -> bool {
        self.orders.state().armed.is_some()
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        self.orders.state().ends = true;
        self.orders.changed.notify_one();
        if let Some(Err(_)) = self.watchman.take().map(JoinHandle::join) {
            tracing::error!("the thread of the dead-man timer panicked");
        }
    }
}

impl Orders {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the timer until it is told to end.
fn watch(mut fuse: Fuse, orders: &Orders) {
    loop {
        let mut state = orders.state();
        if state.ends {
            return;
        }
        let now = Instant::now();
        state.lapse = state.lapse.filter(|lapse| !has_lapsed_in_time(*lapse, now));
        let relied_on = state.lapse;
        let deadly = relied_on.map(|lapse| lapse.deadly);
        if deadly != state.armed {
            // Nobody waits for this thread, however late it is given a processor.
            drop(state);
            fuse.set(deadly).expect("the timer is there, and any moment can be set");
            orders.state().armed = deadly;
            // What was told meanwhile was compared with what was set before.
            continue;
        }
        match relied_on {
            Some(Lapse { at, .. }) => {
                let left = at.saturating_duration_since(now);
                drop(orders.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner));
            }
            None => drop(orders.changed.wait(state).unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Whether it is relied on no more: it has lapsed, and this process runs, or it would not ask. Who asks so late that others
/// may act has stood still, and with it, maybe, what looked before: the timer is armed for a moment that is past.
fn has_lapsed_in_time(lapse: Lapse, now: Instant) -> bool {
    lapse.at <= now && now < lapse.deadly
}

/// Whether the watchman must look at what was told, while the timer is `armed`. A renewal waits until it is worth a look:
/// until then the timer would only end the process too early.
fn is_news(armed: Option<Instant>, told: Option<Lapse>) -> bool {
    match (armed, told) {
        (None, None) => false,
        (Some(armed), Some(Lapse { at, deadly })) => {
            deadly + SAME < armed || deadly.saturating_duration_since(armed) >= (deadly - at).max(SAME)
        }
        (None, Some(_)) | (Some(_), None) => true,
    }
}

/// Asks that this thread be run before others. Without the right to it, it is one among them.
#[cfg(target_os = "linux")]
fn come_first() {
    /// The highest that a thread may have; on Linux it is that of the calling thread alone.
    const FIRST: i32 = -20;
    if let Err(error) = rustix::process::setpriority_process(None, FIRST) {
        tracing::debug!(%error, "the dead-man timer is kept with the usual priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn come_first() {}

#[cfg(target_os = "linux")]
use linux::Fuse;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::time::Duration;

    use nix::sys::signal::{SigEvent, SigevNotify, Signal};
    use nix::sys::time::TimeSpec;
    use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
    use nix::time::ClockId;
    use tokio::time::Instant;

    /// The first process of a PID namespace. A signal that it does not handle reaches it only from outside the namespace,
    /// see pid_namespaces(7); one of its own timer does not.
    const FIRST: u32 = 1;

    /// A timer of the kernel that ends this process.
    pub(super) struct Fuse {
        timer: Timer,
        clock: ClockId,
    }

    impl Fuse {
        pub(super) fn new() -> io::Result<Self> {
            if std::process::id() == FIRST {
                let reason =
                    "it is the first process of a container, which the kernel ends only from outside";
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
            let on = |clock| {
                let kills = SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 };
                Timer::new(clock, SigEvent::new(kills)).map(|timer| Self { timer, clock })
            };
            Ok(on(ClockId::CLOCK_BOOTTIME).or_else(|_| on(ClockId::CLOCK_MONOTONIC))?)
        }

        /// Arms it for a moment, or disarms it.
        pub(super) fn set(&mut self, deadly: Option<Instant>) -> io::Result<()> {
            let Some(deadly) = deadly else {
                // Nothing left to wait means never, see timer_settime(2).
                let never = Expiration::OneShot(TimeSpec::from(Duration::ZERO));
                return Ok(self.timer.set(never, TimerSetTimeFlags::empty())?);
            };
            // In this order, and not by what is left: a thread that is held up anywhere here sets it too early, never too
            // late.
            let now = self.clock.now()?;
            let left = deadly.saturating_duration_since(Instant::now());
            let at = Expiration::OneShot(now + TimeSpec::from(left));
            Ok(self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
        }
    }
}

#[cfg(not(target_os = "linux"))]
struct Fuse;

#[cfg(not(target_os = "linux"))]
impl Fuse {
    fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set(&mut self, _: Option<Instant>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod policy {
    use super::*;

    const L: Duration = Duration::from_millis(500);
    const GUARD: Duration = Duration::from_millis(50);

    fn lapse(deadly: Instant) -> Lapse {
        Lapse { at: deadly - GUARD, deadly }
    }

    #[test]
    fn what_is_seen_to_lapse_in_time_is_not_armed_any_more() {
        let relied_on = lapse(Instant::now() + L);
        assert!(!has_lapsed_in_time(relied_on, relied_on.at - SAME), "it is relied on");
        assert!(has_lapsed_in_time(relied_on, relied_on.at), "this process runs and has noticed");
        assert!(!has_lapsed_in_time(relied_on, relied_on.deadly), "it has stood still");
    }

    #[test]
    fn a_right_that_begins_ends_or_becomes_shorter_is_news_at_once() {
        let deadly = Instant::now() + L;
        assert!(is_news(None, Some(lapse(deadly))));
        assert!(is_news(Some(deadly), None));
        assert!(is_news(Some(deadly), Some(lapse(deadly - SAME * 2))));
        assert!(!is_news(Some(deadly), Some(lapse(deadly - SAME))), "it is the same one");
        assert!(!is_news(None, None));
    }

    #[test]
    fn a_renewal_is_news_when_it_is_worth_it() {
        let armed = Instant::now() + L;
        assert!(!is_news(Some(armed), Some(lapse(armed))));
        assert!(!is_news(Some(armed), Some(lapse(armed + GUARD / 2))), "the timer only is too early");
        assert!(is_news(Some(armed), Some(lapse(armed + GUARD))));
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{ExitStatus, Stdio};

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::process::Command;
    use tokio::time::timeout;

    use super::*;

    /// Set in the process that may be ended: whether it stands still.
    const CHILD: &str = "HOLDFAST_TEST_STANDS_STILL";
    const SOON: Duration = Duration::from_secs(20);
    const LAPSES_IN: Duration = Duration::from_millis(200);

    /// Runs one test of this file in a process of its own, which is told what to do; how it ended.
    async fn ended(test: &str, stands_still: bool) -> ExitStatus {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test])
            .env(CHILD, stands_still.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it can be started again");
        timeout(SOON, child.wait()).await.expect("it ends").expect("it is ours")
    }

    fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            std::thread::yield_now();
        }
    }

    /// What the child does: it relies on something, and does not renew it.
    fn rely(stands_still: bool) {
        let dead_man = DeadMan::start().expect("Linux has such timers");
        let at = Instant::now() + LAPSES_IN;
        // Who runs has all the time it needs to notice.
        let deadly = if stands_still { at + LAPSES_IN } else { at + SOON };
        dead_man.follow(Some(Lapse { at, deadly }));
        until(|| dead_man.is_armed());
        if stands_still {
            kill_process(getpid(), Signal::STOP).expect("it may stop itself");
        }
        until(|| !dead_man.is_armed());
    }

    #[tokio::test]
    async fn a_process_that_stands_still_is_ended_as_it_stands_and_one_that_runs_is_not() {
        if let Some(stands_still) = std::env::var_os(CHILD) {
            return rely(stands_still == "true");
        }
        let this =
            "deadman::tests::a_process_that_stands_still_is_ended_as_it_stands_and_one_that_runs_is_not";
        let stood_still = ended(this, true).await;
        assert_eq!(stood_still.signal(), Some(Signal::KILL.as_raw()), "{stood_still}");
        let ran = ended(this, false).await;
        assert!(ran.success(), "{ran}");
    }

    #[tokio::test]
    async fn a_process_that_stood_still_before_the_timer_was_armed_is_ended_when_it_goes_on() {
        if std::env::var_os(CHILD).is_some() {
            let dead_man = DeadMan::start().expect("Linux has such timers");
            // Told in time, and seen only now that others may act.
            let now = Instant::now();
            dead_man.orders.state().lapse = Some(Lapse { at: now, deadly: now });
            dead_man.orders.changed.notify_one();
            return until(|| false);
        }
        let this =
            "deadman::tests::a_process_that_stood_still_before_the_timer_was_armed_is_ended_when_it_goes_on";
        let went_on = ended(this, true).await;
        assert_eq!(went_on.signal(), Some(Signal::KILL.as_raw()), "{went_on}");
    }

    #[test]
    fn what_has_lapsed_when_it_is_told_ends_nobody() {
        let dead_man = DeadMan::start().expect("Linux has such timers");
        let now = Instant::now();
        dead_man.follow(Some(Lapse { at: now, deadly: now }));
        assert_eq!(dead_man.orders.state().lapse, None, "nobody can rely on it");
    }

    #[tokio::test]
    async fn the_first_process_of_a_container_is_told_that_no_timer_would_end_it() {
        if std::env::var_os(CHILD).is_some() {
            assert_eq!(std::process::id(), 1, "it has a namespace for itself");
            assert!(DeadMan::start().is_err(), "it would take what does nothing for a fence");
            return;
        }
        let apart = |program: &OsStr| {
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork", "--kill-child"]).arg(program);
            command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            command
        };
        if !apart("true".as_ref()).status().await.is_ok_and(|tried| tried.success()) {
            eprintln!("SKIPPED: it takes a namespace of its own (root, `unshare`)");
            return;
        }
        let mut child = apart(std::env::current_exe().expect("this program").as_ref());
        child.args([
            "--exact",
            "deadman::tests::the_first_process_of_a_container_is_told_that_no_timer_would_end_it",
        ]);
        let ended = timeout(SOON, child.env(CHILD, "false").status()).await.expect("it ends");
        let ended = ended.expect("it can be started again");
        assert!(ended.success(), "{ended}");
    }

    #[test]
    fn what_is_given_up_is_disarmed_long_before_it_lapses() {
        let dead_man = DeadMan::start().expect("Linux has such timers");
        let at = Instant::now() + SOON;
        dead_man.follow(Some(Lapse { at, deadly: at + SOON }));
        until(|| dead_man.is_armed());
        dead_man.follow(None);
        until(|| !dead_man.is_armed());
        assert!(Instant::now() < at);
    }
}
