//! `agents`, `drain`, `remove`.

use hive_proto::v1;

use super::Context;
use super::task::{self, Pages, short};
use crate::args::{Agents, Drain, Remove};
use crate::failure::Failure;
use crate::output::{self, Format};

/// An agent's phase in short, such as `READY`.
pub(crate) fn phase_name(phase: v1::AgentPhase) -> &'static str {
    match phase {
        v1::AgentPhase::Unspecified => "UNKNOWN",
        other => short(other.as_str_name(), "AGENT_PHASE_"),
    }
}

/// `hive agents`.
pub(super) async fn run(cx: &Context, args: Agents) -> Result<(), Failure> {
    if let Some(id) = args.id {
        let request = v1::GetAgentRequest { namespace: cx.client.namespace.clone(), agent_id: id.clone() };
        let what = format!("cannot get agent {id}");
        let response = cx.client.call(&what, request, |mut s, r| async move { s.agents.get_agent(r).await }).await?;
        return show(cx, &response.agent.unwrap_or_default());
    }
    let mut all = v1::ListAgentsResponse::default();
    let mut pages = Pages::new(&args.page);
    while let Some((page_size, page_token)) = pages.next(all.agents.len()) {
        let request = v1::ListAgentsRequest {
            namespace: cx.client.namespace.clone(),
            page_size,
            page_token,
            capability: args.capability.clone(),
            show_removed: args.removed,
        };
        let response = cx
            .client
            .call("cannot list agents", request, |mut s, r| async move { s.agents.list_agents(r).await })
            .await?;
        pages.token = Some(response.next_page_token.clone());
        all.agents.extend(response.agents);
        all.revision = all.revision.or(response.revision);
        all.next_page_token = response.next_page_token;
    }
    match cx.format {
        Format::Json => output::json("hive.v1.ListAgentsResponse", &all)?,
        Format::Name => all.agents.iter().try_for_each(|agent| output::line(&agent.id))?,
        Format::Table if all.agents.is_empty() => output::say("no agents match"),
        Format::Table => output::line(&table(&all.agents))?,
    }
    task::more(cx, &all.next_page_token);
    Ok(())
}

fn show(cx: &Context, agent: &v1::Agent) -> Result<(), Failure> {
    match cx.format {
        Format::Json => output::json("hive.v1.Agent", agent),
        Format::Name => output::line(&agent.id),
        Format::Table => output::line(&table(std::slice::from_ref(agent))),
    }
}

fn table(agents: &[v1::Agent]) -> String {
    let rows: Vec<_> = agents
        .iter()
        .map(|agent| {
            let spec = agent.spec.clone().unwrap_or_default();
            let runtime = short(spec.runtime().as_str_name(), "RUNTIME_").to_lowercase();
            let free = agent.free_slots.map_or_else(|| "?".to_owned(), |free| free.to_string());
            vec![
                agent.id.clone(),
                phase_name(agent.phase()).to_owned(),
                runtime,
                agent.assigned.to_string(),
                format!("{free}/{}", spec.slots.max(1)),
                agent.sidecar_id.clone(),
                spec.capabilities.join(","),
                spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            ]
        })
        .collect();
    output::table(&["ID", "PHASE", "RUNTIME", "ASSIGNED", "FREE", "SIDECAR", "CAPABILITIES", "LABELS"], &rows)
}

/// `hive drain`.
pub(super) async fn drain(cx: &Context, args: Drain) -> Result<(), Failure> {
    let request =
        v1::DrainAgentRequest { namespace: cx.client.namespace.clone(), agent_id: args.agent.clone(), undo: args.undo };
    let what = format!("cannot drain agent {}", args.agent);
    let response = cx.client.call(&what, request, |mut s, r| async move { s.agents.drain_agent(r).await }).await?;
    show(cx, &response.agent.unwrap_or_default())
}

/// `hive remove`.
pub(super) async fn remove(cx: &Context, args: Remove) -> Result<(), Failure> {
    let request = v1::RemoveAgentRequest {
        namespace: cx.client.namespace.clone(),
        agent_id: args.agent.clone(),
        force: args.force,
        undo: args.undo,
    };
    let what = format!("cannot remove agent {}", args.agent);
    let response = cx.client.call(&what, request, |mut s, r| async move { s.agents.remove_agent(r).await }).await?;
    show(cx, &response.agent.unwrap_or_default())
}
