//! `hive.v1.AgentService`.

use std::pin::Pin;

use futures_util::Stream;
use hive_core::command::{AgentUpdate, Command, Reply};
use hive_core::id::{AgentId, Namespace};
use hive_core::leader::View;
use hive_core::record::Desired;
use hive_core::rejection::Rejection;
use hive_proto::v1;
use hive_proto::v1::agent_service_server::AgentService;
use tonic::{Request, Response, Status};

use super::check::{self, Limits};
use super::convert;
use super::error::{Reason, invalid};
use super::watch::Watches;
use crate::config;
use crate::driver::Handle;

/// See the module.
pub struct Agents {
    handle: Handle,
    watches: Watches,
    limits: Limits,
    page: check::Page,
}

impl Agents {
    /// Over a driver.
    #[must_use]
    pub fn new(handle: Handle, watches: Watches, config: &config::Config) -> Self {
        Self { handle, watches, limits: config.limits.content(), page: check::Page::of(&config.limits) }
    }

    /// Carries a command out and shows the agent as it stands then.
    async fn change(
        &self,
        namespace: Namespace,
        command: Command,
    ) -> Result<(Option<v1::Agent>, Option<v1::Revision>), Status> {
        let (reply, revision) = self.handle.call(namespace.clone(), command).await?;
        let Reply::Agent(record) = reply else {
            return Err(Reason::Internal.status("the driver gave another answer than was asked for"));
        };
        let id = record.id.clone();
        let shown = self.handle.read(move |view| convert::agent_of(view, &namespace, &id)).await?;
        Ok((shown, Some(check::revision(revision))))
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    async fn register_agent(
        &self,
        request: Request<v1::RegisterAgentRequest>,
    ) -> Result<Response<v1::RegisterAgentResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::agent_id(&request.agent_id)?;
        // Without an id the same declaration again is the same request.
        let digest = check::request_digest(&request.request_id, &request)?.unwrap_or_else(|| check::digest(&request));
        let spec = request.spec.unwrap_or_default();
        if spec.runtime != 0 {
            return Err(invalid("spec.runtime", "is declared by the agent's sidecar"));
        }
        let spec = check::agent_spec("spec", spec, &self.limits)?;
        let (agent, revision) = self.change(namespace, Command::RegisterAgent { id, spec, request: digest }).await?;
        Ok(Response::new(v1::RegisterAgentResponse { agent, revision }))
    }

    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::GetAgentResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::agent_id(&request.agent_id)?;
        let of = id.clone();
        let read =
            move |view: &View<'_>| (view.has(&namespace), convert::agent_of(view, &namespace, &of), view.revision());
        let (known, agent, revision) = self.handle.read(read).await?;
        if agent.is_none() {
            let why = if known { Rejection::AgentNotFound(id) } else { Rejection::NamespaceNotFound };
            return Err(super::refusal::rejection(&why));
        }
        Ok(Response::new(v1::GetAgentResponse { agent, revision: Some(check::revision(revision)) }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let (page, size) = (self.page, self.page.size(request.page_size)?);
        let wrong = |_| Reason::PageTokenInvalid.status("the page token is not one of this list's");
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(AgentId::parse(token).map_err(wrong)?),
        };
        let (capability, removed) = (request.capability, request.show_removed);
        let read = move |view: &View<'_>| {
            let (mut agents, mut bytes) = (Vec::new(), 0);
            let mut last = None;
            let mut more = false;
            for id in view.agents_after(&namespace, after.as_ref()) {
                if agents.len() == size {
                    more = true;
                    break;
                }
                if let Some((record, _)) = view.agent(&namespace, &id)
                    && (removed || record.desired != Desired::Removed)
                    && (capability.is_empty() || record.spec.capabilities.contains(capability.as_str()))
                    && let Some(agent) = convert::agent_of(view, &namespace, &id)
                {
                    let len = prost::Message::encoded_len(&agent);
                    if page.is_full(bytes, len) {
                        more = true;
                        break;
                    }
                    bytes += len;
                    agents.push(agent);
                }
                last = Some(id);
            }
            (view.has(&namespace), agents, last.filter(|_| more), view.revision())
        };
        let (known, agents, last, revision) = self.handle.read(read).await?;
        if !known {
            return Err(super::refusal::rejection(&Rejection::NamespaceNotFound));
        }
        let next_page_token = last.map(|id| id.to_string()).unwrap_or_default();
        let revision = Some(check::revision(revision));
        Ok(Response::new(v1::ListAgentsResponse { agents, next_page_token, revision }))
    }

    async fn update_agent(
        &self,
        request: Request<v1::UpdateAgentRequest>,
    ) -> Result<Response<v1::UpdateAgentResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::agent_id(&request.agent_id)?;
        let update = update(request.spec.unwrap_or_default(), request.update_mask, &self.limits)?;
        let (agent, revision) = self.change(namespace, Command::UpdateAgent { id, update }).await?;
        Ok(Response::new(v1::UpdateAgentResponse { agent, revision }))
    }

    async fn drain_agent(
        &self,
        request: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::DrainAgentResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::agent_id(&request.agent_id)?;
        let (agent, revision) = self.change(namespace, Command::DrainAgent { id, undo: request.undo }).await?;
        Ok(Response::new(v1::DrainAgentResponse { agent, revision }))
    }

    async fn remove_agent(
        &self,
        request: Request<v1::RemoveAgentRequest>,
    ) -> Result<Response<v1::RemoveAgentResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::agent_id(&request.agent_id)?;
        let command = match (request.undo, request.force) {
            (true, true) => return Err(invalid("force", "must not be set with undo")),
            (true, false) => Command::RestoreAgent(id),
            (false, force) => Command::RemoveAgent { id, force },
        };
        let (agent, revision) = self.change(namespace, command).await?;
        Ok(Response::new(v1::RemoveAgentResponse { agent, revision }))
    }

    type WatchAgentsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchAgentsResponse, Status>> + Send>>;

    async fn watch_agents(
        &self,
        request: Request<v1::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let namespace = check::namespace(&request.into_inner().namespace)?;
        Ok(Response::new(Box::pin(self.watches.agents(&self.handle, namespace).await?)))
    }
}

/// The fields named by the mask, or those that are set.
fn update(spec: v1::AgentSpec, mask: Option<prost_types::FieldMask>, limits: &Limits) -> Result<AgentUpdate, Status> {
    const FIELDS: [&str; 4] = ["pool", "capabilities", "labels", "slots"];
    let set = [!spec.pool.is_empty(), !spec.capabilities.is_empty(), !spec.labels.is_empty(), spec.slots != 0];
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if let Some(unknown) = paths.iter().find(|path| !FIELDS.contains(&path.as_str())) {
        return Err(invalid("update_mask", format!("{unknown:?} can't be changed; {} can", FIELDS.join(", "))));
    }
    let named = |nth: usize| if paths.is_empty() { set[nth] } else { paths.iter().any(|path| path == FIELDS[nth]) };
    if !(0..FIELDS.len()).any(named) {
        return Err(invalid("update_mask", "names no field, and none is set"));
    }
    let checked = check::agent_spec("spec", spec, limits)?;
    Ok(AgentUpdate {
        pool: named(0).then_some(checked.pool),
        capabilities: named(1).then_some(checked.capabilities),
        labels: named(2).then_some(checked.labels),
        slots: named(3).then_some(checked.slots),
    })
}
