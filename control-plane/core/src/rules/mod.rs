//! Deciding: a command and a state in, changes or a refusal out. Plain functions, one noun a file.

mod agent;
mod attempt;
mod expiry;
mod input;
mod retention;
mod sidecar;
mod task;

pub use attempt::verdict;
pub use retention::evictable;

use crate::command::{Command, Context, Decision};
use crate::record::{Change, Digest, Record};
use crate::rejection::Rejection;
use crate::state::{Space, State};

/// Decides a command. Changes nothing.
///
/// # Errors
/// The reason for which the command is refused.
pub fn decide(state: &State, command: Command, ctx: &Context<'_>) -> Result<Decision, Rejection> {
    let space = state.space(ctx.namespace).ok_or(Rejection::NamespaceNotFound)?;
    let rule = Rule { space, settings: state.settings(), ctx };
    let decision = match command {
        Command::Submit { id, spec, blob } => rule.submit(id, spec, blob),
        Command::Assign(matched) => Ok(rule.assign(&matched)),
        Command::Cancel(id) => rule.cancel(id),
        Command::ProvideInput { id, number, input, request } => rule.provide_input(id, number, input, request),
        Command::Report { token, agent, outcome } => Ok(rule.report(token, &agent, outcome)),
        Command::Decline { token, agent } => Ok(rule.decline(token, &agent)),
        Command::LoseAttempt { token, message } => Ok(rule.lose_attempt(token, message)),
        Command::AskInput { token, number, prompt } => Ok(rule.ask_input(token, number, prompt)),
        Command::RecordStart { token, started } => Ok(rule.record_start(token, started)),
        Command::Expire(id) => Ok(rule.expire(id)),
        Command::RegisterAgent { id, spec, request } => rule.register_agent(id, spec, request),
        Command::UpdateAgent { id, update } => rule.update_agent(&id, update),
        Command::DrainAgent { id, undo } => rule.drain_agent(&id, undo),
        Command::RemoveAgent { id, force } => rule.remove_agent(&id, force),
        Command::RestoreAgent(id) => rule.restore_agent(&id),
        Command::AdmitSidecar { id, boot, claimed, rival } => rule.admit_sidecar(id, boot, claimed, rival),
        Command::HostAgent { host, id, spec, digest, rival } => rule.host_agent(host, id, spec, digest, rival),
        Command::UnhostAgent(id) => Ok(rule.unhost_agent(&id)),
        Command::LoseAgent(id) => Ok(rule.lose_agent(&id)),
        Command::RaiseFloor => Ok(rule.raise_floor()),
        Command::Evict { most } => Ok(rule.evict(most)),
        Command::ForgetAgent(id) => Ok(rule.forget_agent(&id)),
    }?;
    debug_assert!(decision.changes.len() <= Decision::MAX_RECORDS, "a command changes at most 64 records");
    Ok(decision)
}

/// Two requests came under one id: the first half of their fingerprints is that of the id.
fn same_id(one: &Digest, other: &Digest) -> bool {
    let half = size_of::<Digest>() / 2;
    one[..half] == other[..half]
}

/// What every rule sees.
struct Rule<'a> {
    space: &'a Space,
    settings: &'a crate::settings::Settings,
    ctx: &'a Context<'a>,
}

impl Rule<'_> {
    fn put(&self, record: Record) -> Change {
        Change { key: record.key(self.ctx.namespace), value: Some(record) }
    }
}
