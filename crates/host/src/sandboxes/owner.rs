//! The owner of one sandbox: a task that carries out its orders one after the other and watches over its processes.
//!
//! ```text
//!                 create                 pause
//!   (nothing) ------------> Running <--------------> Paused
//!                |             |         resume        |
//!         failed |             | its first process ended (or the machine rebooted)
//!                v             v
//!   (nothing) <---------- Exited
//!                destroy, or control has acknowledged
//! ```
//!
//! One that is paused never ends by itself: whose processes die meanwhile has its files, and stays paused with them.
//!
//! Nobody else touches the sandbox's record, so no lock is held over any wait. Birth is in [`super::birth`], death in
//! [`super::death`], standing still in [`super::pause`].

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::mpsc;

use super::Shared;
use super::entry::{Answer, Entry, Kept, Order, View};
use super::error::OrderError;
use super::generation::{Seen, Verdict, judge};
use super::machine::{ImageLease, Life};
use super::record::{Record, State};
use super::recovery::RECORD_DAMAGED;
use super::spares::Spare;
use super::spec::Secrets;
use crate::driver::Exit;

/// What is left of a sandbox after an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Stays,
    /// Nothing is left.
    Gone,
}

/// How an owner begins.
pub(super) enum Start {
    Create {
        secrets: Secrets,
        /// Without processes, and why.
        at_rest: Option<String>,
        reply: super::entry::Reply,
    },
    /// As the record says; its processes were found again.
    Adopted(Arc<dyn Life>),
    /// The machine has rebooted: from its disk.
    Restart,
    /// As the record says; it has no processes.
    AtRest,
    /// A crash has interrupted its birth or death.
    Finish,
}

pub(super) struct Owner {
    pub shared: Arc<Shared>,
    pub entry: Arc<Entry>,
    pub record: Record,
    pub life: Option<Arc<dyn Life>>,
    /// What it is about to take over.
    pub spare: Option<Spare>,
    /// What its root file system stands on.
    pub images: Vec<ImageLease>,
    /// Its processes are gone, and what they had in the kernel is still to be removed.
    pub release_due: bool,
}

/// Between two attempts to remove what could not be removed.
const RELEASE_AGAIN: Duration = Duration::from_secs(2);

impl Owner {
    pub(super) fn new(shared: Arc<Shared>, entry: Arc<Entry>, record: Record) -> Self {
        Self { shared, entry, record, life: None, spare: None, images: Vec::new(), release_due: false }
    }

    pub(super) async fn run(mut self, start: Start, mut orders: mpsc::Receiver<Order>) {
        let mut flow = self.begin(start).await;
        while flow == Flow::Stays {
            let life = self.life.clone();
            let exited = async {
                match life {
                    Some(life) => life.exited().await,
                    None => std::future::pending().await,
                }
            };
            let release = async {
                if self.release_due {
                    tokio::time::sleep(RELEASE_AGAIN).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            flow = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                exit = exited => {
                    match exit {
                        Ok(exit) => self.has_exited(exit).await,
                        Err(error) => {
                            tracing::warn!(sandbox = %self.record.id, %error, "can't watch a sandbox's processes");
                            tokio::time::sleep(RELEASE_AGAIN).await;
                        }
                    }
                    Flow::Stays
                }
                () = release => {
                    self.release().await;
                    Flow::Stays
                }
            };
        }
        self.shared.forget(&self.entry);
        orders.close();
        while let Some(order) = orders.recv().await {
            self.answer_from_the_grave(order);
        }
    }

    async fn begin(&mut self, start: Start) -> Flow {
        match start {
            Start::Create { secrets, at_rest, reply } => self.create(secrets, at_rest, reply).await,
            Start::Adopted(life) => {
                self.adopted(life).await;
                Flow::Stays
            }
            Start::Restart => self.restart().await,
            Start::AtRest => {
                if self.record.state == State::Paused {
                    self.end_processes().await;
                }
                self.release_due = self.record.state == State::Exited && self.record.slot.is_some();
                Flow::Stays
            }
            Start::Finish => {
                self.finish_dying().await;
                Flow::Gone
            }
        }
    }

    async fn carry_out(&mut self, order: Order) -> Flow {
        match order {
            Order::Create { seen, reply } => {
                let result = self.judge(&seen).and_then(|verdict| match verdict {
                    Verdict::Repeated => Ok(self.answer(Kept::Memory)),
                    Verdict::New => Err(self.wrong_state("a sandbox is created once")),
                });
                let _asker_is_gone = reply.send(result);
                Flow::Stays
            }
            Order::Pause { seen, reason, keep, reply } => {
                let result = self.pause(seen, reason, keep).await;
                let _asker_is_gone = reply.send(result);
                Flow::Stays
            }
            Order::Resume { seen, reply } => {
                let result = self.resume(seen).await;
                let _asker_is_gone = reply.send(result);
                Flow::Stays
            }
            Order::Snapshot { layer, memory, reply } => {
                let result = self.snapshot(&layer, memory).await;
                let _asker_is_gone = reply.send(result);
                Flow::Stays
            }
            Order::SetPolicy { generation, policy, reply } => {
                let result = self.set_policy(generation, *policy).await;
                let _asker_is_gone = reply.send(result);
                Flow::Stays
            }
            Order::Destroy { seen, reply } => self.destroy(seen, reply).await,
            Order::Acknowledge { generation, state } => {
                let known = state == State::Exited
                    && self.record.state == State::Exited
                    && self.record.reason != RECORD_DAMAGED
                    && generation == self.record.seen.generation;
                if known { self.die_acknowledged().await } else { Flow::Stays }
            }
        }
    }

    fn answer_from_the_grave(&self, order: Order) {
        match order {
            Order::Destroy { reply, .. } => {
                let _asker_is_gone = reply.send(Ok(self.answer(Kept::Files)));
            }
            Order::Create { reply, .. }
            | Order::Pause { reply, .. }
            | Order::Resume { reply, .. }
            | Order::Snapshot { reply, .. }
            | Order::SetPolicy { reply, .. } => {
                let _asker_is_gone = reply.send(Err(OrderError::Destroyed));
            }
            Order::Acknowledge { .. } => {}
        }
    }

    /// The first process has ended by itself, and with it all others.
    async fn has_exited(&mut self, exit: Exit) {
        if self.record.state == State::Paused {
            tracing::warn!(
                sandbox = %self.record.id, code = exit.code, out_of_memory = exit.out_of_memory,
                "the processes of a paused sandbox are gone; its files stay, and a resume starts new ones"
            );
            self.record.init = None;
            self.save();
            self.end_processes().await;
            return;
        }
        let reason = if exit.out_of_memory { "out_of_memory" } else { "exited" };
        tracing::info!(sandbox = %self.record.id, reason, code = exit.code, "a sandbox has ended");
        self.entry.cut.cancel();
        self.life = None;
        self.images.clear();
        self.record.exit_code = exit.code.unwrap_or(-1);
        self.record.init = None;
        self.set_state(State::Exited, reason);
        self.release().await;
    }

    /// Gives back what an ended sandbox had in the kernel. Its disk stays until control knows.
    async fn release(&mut self) {
        let id = self.record.id.clone();
        let machine = &self.shared.machine;
        let cleaned = machine.clean_up(&id).await.map_err(|error| error.to_string());
        let detached = match self.record.slot {
            Some(slot) => machine.detach(slot).await.map_err(|error| error.to_string()),
            None => Ok(()),
        };
        self.release_due = cleaned.is_err() || detached.is_err();
        if let Err(error) = cleaned.and(detached) {
            tracing::warn!(sandbox = %id, error, "what an ended sandbox leaves could not be removed yet");
            return;
        }
        if let Some(slot) = self.record.slot.take() {
            self.save();
            machine.give_back_slot(slot);
        }
    }

    pub(super) fn judge(&self, order: &Seen) -> Result<Verdict, OrderError> {
        judge(&self.record.seen, order)
    }

    pub(super) fn wrong_state(&self, wanted: &'static str) -> OrderError {
        OrderError::WrongState { state: self.record.state, wanted }
    }

    pub(super) fn answer(&self, kept: Kept) -> Answer {
        Answer { view: self.entry.view.load_full(), kept, steps: Vec::new(), freed_bytes: 0, standing: Vec::new() }
    }

    /// Notes a new state with its reason, on disk and for everybody to see.
    pub(super) fn set_state(&mut self, state: State, reason: &str) {
        self.record.state = state;
        reason.clone_into(&mut self.record.reason);
        self.record.changed_at_ms = Utc::now().timestamp_millis();
        self.save();
    }

    /// Writes the record and shows it. When the disk refuses, the truth is shown all the same and the record catches up
    /// with the next change: after a restart, the kernel's word counts for more than the record's anyway.
    pub(super) fn save(&self) {
        if let Err(error) = self.shared.records.write(&self.record) {
            tracing::error!(sandbox = %self.record.id, %error, "a sandbox's record can't be written");
        }
        self.show();
    }

    /// Lets everybody see the record as it is.
    pub(super) fn show(&self) {
        self.entry.view.store(Arc::new(View::of(&self.record)));
        self.shared.changed.send_replace(());
    }
}
