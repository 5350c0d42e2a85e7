//! The truth table with a user in the middle of it: each row of the table, on a host whose agent is the real code, while a
//! delete, a pause or a create comes between control's look at its rows and the host's answer, or just after that answer.

use std::time::Duration;

use atoll_host::driver::Exit;
use atoll_host::sandboxes::{HOST_DISCONNECTED, Keeper};
use atoll_model::SandboxStatus::{
    self, Error, Missing, Paused, Pausing, Pending, Resuming, Running, Starting, Stopped,
};
use atoll_model::{HostId, SandboxId};
use futures::executor::block_on;

use super::life::pass;
use super::world::{Meanwhile, World};

/// What the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    Running,
    /// For a user.
    Paused,
    /// By the agent itself, when it had lost contact.
    Disconnected,
    Exited,
    Nothing,
}

/// A row of the table: control's view, what the host has, and what comes of it when nobody meddles.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub view: SandboxStatus,
    /// Control has never heard of it.
    pub unknown: bool,
    pub there: There,
    pub becomes: SandboxStatus,
}

const fn case(view: SandboxStatus, there: There, becomes: SandboxStatus) -> Case {
    Case { view, unknown: false, there, becomes }
}

pub const TABLE: [Case; 25] = [
    case(Missing, There::Running, Running),
    case(Missing, There::Disconnected, Running),
    case(Missing, There::Paused, Paused),
    case(Missing, There::Exited, Stopped),
    case(Missing, There::Nothing, Stopped),
    case(Running, There::Running, Running),
    case(Running, There::Paused, Paused),
    case(Running, There::Disconnected, Running),
    case(Running, There::Exited, Stopped),
    case(Running, There::Nothing, Stopped),
    case(Paused, There::Running, Running),
    case(Paused, There::Disconnected, Running),
    case(Paused, There::Exited, Stopped),
    case(Paused, There::Nothing, Error),
    case(Error, There::Running, Running),
    case(Error, There::Paused, Paused),
    case(Pending, There::Nothing, Error),
    case(Starting, There::Running, Running),
    case(Starting, There::Nothing, Error),
    case(Pausing, There::Running, Running),
    case(Pausing, There::Paused, Paused),
    case(Resuming, There::Paused, Paused),
    case(Resuming, There::Nothing, Error),
    case(Stopped, There::Running, Stopped),
    Case { view: Running, unknown: true, there: There::Running, becomes: Stopped },
];

/// What a user does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Race {
    Nobody,
    Delete,
    Pause,
    Create,
}

impl Race {
    pub const ALL: [Self; 4] = [Self::Nobody, Self::Delete, Self::Pause, Self::Create];
}

/// When: after control has read its rows, and before or after the host makes its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    BeforeTheList,
    AfterTheList,
}

impl Moment {
    pub const ALL: [Self; 2] = [Self::BeforeTheList, Self::AfterTheList];
}

/// Runs it, and passes until everything has had its time.
///
/// # Errors
/// What did not hold.
pub fn race(case: Case, race: Race, moment: Moment) -> Result<(), String> {
    let world = World::new(1, 1);
    let (host, now) = (world.state().hosts[0].id.clone(), world.millis());
    world.state().hosts[0].start(now);
    let id = set_up(&world, &host, case);
    let meanwhile = match race {
        Race::Nobody => None,
        Race::Delete => Some(Meanwhile::Destroy(id.clone())),
        Race::Pause => Some(Meanwhile::Pause(id.clone())),
        Race::Create => Some(Meanwhile::Create(0)),
    };
    {
        let mut state = world.state();
        match moment {
            Moment::BeforeTheList => state.meanwhile = meanwhile,
            Moment::AfterTheList => state.afterwards = meanwhile,
        }
    }
    let pass = pass(&world);
    // What hangs in between, and what control does not know, has two minutes.
    for _ in 0..12 {
        block_on(pass.run(&host)).map_err(|error| error.to_string())?;
        if let Some(agent) = &world.state().hosts[0].agent {
            agent.settle();
        }
        world.clock.advance(Duration::from_secs(15));
    }
    let broken = world.state().broken.take();
    broken.map_or(Ok(()), Err)?;
    verify(&world, &id, expected(case, race))?;
    let created = world.state().order.iter().find(|other| **other != id).cloned();
    match (race, created) {
        (Race::Create, Some(created)) => verify(&world, &created, (Running, None)),
        (Race::Create, None) => Err("nothing was created".to_owned()),
        _ => Ok(()),
    }
}

/// What must come of it; a pause that control has taken note of wins, and so does a delete.
fn expected(case: Case, race: Race) -> (SandboxStatus, Option<&'static str>) {
    let lives = matches!(case.there, There::Running | There::Paused | There::Disconnected);
    match race {
        Race::Delete if !case.unknown => (Stopped, None),
        // Only what control believes to run can be paused.
        Race::Pause if case.view == Running && !case.unknown && lives => (Paused, Some("user")),
        _ => (case.becomes, None),
    }
}

/// A sandbox that is on the host what the case says, and in control's row too.
fn set_up(world: &World, host: &HostId, case: Case) -> SandboxId {
    world.create(0, false);
    let id = world.state().order[0].clone();
    match case.there {
        There::Running => {}
        There::Paused => world.pause(&id, false),
        There::Disconnected => order(world, async |keeper| {
            keeper.pause_all(HOST_DISCONNECTED).await;
        }),
        There::Exited => {
            let mut state = world.state();
            state.hosts[0].machine.exit(&id, Exit { code: Some(3), out_of_memory: false });
            state.ended.insert(id.clone());
        }
        There::Nothing => {
            let generation = world.state().rows[&id].generation + 1;
            order(world, async |keeper| keeper.destroy(&id, generation).await.expect("destroying"));
        }
    }
    let mut state = world.state();
    if let Some(agent) = &state.hosts[0].agent {
        agent.settle();
    }
    let row = state.rows.get_mut(&id).expect("its row");
    row.status = case.view;
    row.host = Some(host.clone());
    row.generation += u64::from(matches!(case.there, There::Nothing) || case.view == Stopped);
    row.reason = (case.view == Paused).then(|| HOST_DISCONNECTED.to_owned());
    if case.unknown {
        state.rows.remove(&id);
        state.order.clear();
    }
    drop(state);
    // Longer than anything may be on its way.
    world.clock.advance(Duration::from_secs(121));
    id
}

fn order(world: &World, order: impl AsyncFnOnce(&Keeper)) {
    let state = world.state();
    let agent = state.hosts[0].agent.as_ref().expect("an agent");
    agent.order(order);
}

/// Whether row and host have come to this.
fn verify(world: &World, id: &SandboxId, (status, reason): (SandboxStatus, Option<&str>)) -> Result<(), String> {
    let state = world.state();
    let agent = state.hosts[0].agent.as_ref().ok_or("an agent is not there")?;
    let there = agent.keeper().list().into_iter().find(|view| view.id == *id).map(|view| view.state);
    let there_should = match status {
        Running => Some(atoll_host::sandboxes::State::Running),
        Paused => Some(atoll_host::sandboxes::State::Paused),
        _ => None,
    };
    let row = state.rows.get(id);
    let row_is_right = match row {
        Some(row) => row.status == status && reason.is_none_or(|reason| row.reason.as_deref() == Some(reason)),
        None => status == Stopped,
    };
    if row_is_right && there == there_should {
        return Ok(());
    }
    Err(format!("expected {status} ({reason:?}), and control has {row:?}, the host {there:?}"))
}
