//! Agents: who is there, and what an operator wants of them.

use futures_util::StreamExt as _;
use futures_util::stream::try_unfold;
use hive_proto::v1::{self, Agent, AgentSpec};
use std::collections::VecDeque;

use super::{Client, Error, Items};
use crate::clock;

/// Which fields of an agent's spec to change; see [`Client::update_agent`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentChange {
    spec: AgentSpec,
    fields: Vec<String>,
}

impl AgentChange {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pool.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.spec.pool = pool.into();
        self.with("pool")
    }

    /// All capabilities.
    pub fn capabilities(mut self, all: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.capabilities = all.into_iter().map(Into::into).collect();
        self.with("capabilities")
    }

    /// All labels.
    pub fn labels<K: Into<String>, V: Into<String>>(mut self, all: impl IntoIterator<Item = (K, V)>) -> Self {
        self.spec.labels = all.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self.with("labels")
    }

    /// Tasks at a time.
    pub fn slots(mut self, slots: u32) -> Self {
        self.spec.slots = slots;
        self.with("slots")
    }

    fn with(mut self, field: &str) -> Self {
        if !self.fields.iter().any(|known| known == field) {
            self.fields.push(field.to_owned());
        }
        self
    }
}

fn there(call: &'static str, agent: Option<Agent>) -> Result<Agent, Error> {
    agent.ok_or(Error::Answer { call, what: "the agent" })
}

impl Client {
    /// Declares an agent before a sidecar hosts it, or brings a removed one back.
    pub async fn register_agent(&self, id: impl Into<String>, spec: AgentSpec) -> Result<Agent, Error> {
        let request = v1::RegisterAgentRequest {
            namespace: self.ns(),
            agent_id: id.into(),
            spec: Some(spec),
            request_id: clock::unique().to_string(),
        };
        let answer = self
            .call("RegisterAgent", request, |request| {
                let mut agents = self.agents();
                async move { agents.register_agent(request).await }
            })
            .await?;
        there("RegisterAgent", answer.agent)
    }

    /// Reads one agent.
    pub async fn get_agent(&self, id: impl Into<String>) -> Result<Agent, Error> {
        let request = v1::GetAgentRequest { namespace: self.ns(), agent_id: id.into() };
        let answer = self
            .call("GetAgent", request, |request| {
                let mut agents = self.agents();
                async move { agents.get_agent(request).await }
            })
            .await?;
        there("GetAgent", answer.agent)
    }

    /// Lists agents by id, page by page as they are taken: those with a capability (empty means
    /// all), removed ones on request.
    pub fn list_agents(&self, capability: impl Into<String>, show_removed: bool) -> Items<Agent> {
        let request = v1::ListAgentsRequest {
            namespace: self.ns(),
            capability: capability.into(),
            show_removed,
            ..Default::default()
        };
        let client = self.clone();
        let start = (VecDeque::new(), Some(request));
        try_unfold(start, move |(mut page, mut next): (VecDeque<Agent>, Option<v1::ListAgentsRequest>)| {
            let client = client.clone();
            async move {
                loop {
                    if let Some(agent) = page.pop_front() {
                        return Ok(Some((agent, (page, next))));
                    }
                    let Some(mut request) = next.take() else { return Ok(None) };
                    let answer = client.list_agents_page(request.clone()).await?;
                    page = answer.agents.into();
                    request.page_token = answer.next_page_token;
                    next = (!request.page_token.is_empty()).then_some(request);
                }
            }
        })
        .fuse()
        .boxed()
    }

    async fn list_agents_page(&self, request: v1::ListAgentsRequest) -> Result<v1::ListAgentsResponse, Error> {
        self.call("ListAgents", request, |request| {
            let mut agents = self.agents();
            async move { agents.list_agents(request).await }
        })
        .await
    }

    /// Changes some fields of an agent's spec; running work is left alone.
    pub async fn update_agent(&self, id: impl Into<String>, change: AgentChange) -> Result<Agent, Error> {
        let request = v1::UpdateAgentRequest {
            namespace: self.ns(),
            agent_id: id.into(),
            spec: Some(change.spec),
            update_mask: Some(prost_types::FieldMask { paths: change.fields }),
        };
        let answer = self
            .call("UpdateAgent", request, |request| {
                let mut agents = self.agents();
                async move { agents.update_agent(request).await }
            })
            .await?;
        there("UpdateAgent", answer.agent)
    }

    /// Stops giving work to an agent, or with `undo` gives it work again; what runs goes on.
    pub async fn drain_agent(&self, id: impl Into<String>, undo: bool) -> Result<Agent, Error> {
        let request = v1::DrainAgentRequest { namespace: self.ns(), agent_id: id.into(), undo };
        let answer = self
            .call("DrainAgent", request, |request| {
                let mut agents = self.agents();
                async move { agents.drain_agent(request).await }
            })
            .await?;
        there("DrainAgent", answer.agent)
    }

    /// Drains an agent and lets it go; with `force` what runs is ended.
    pub async fn remove_agent(&self, id: impl Into<String>, force: bool) -> Result<Agent, Error> {
        self.remove(id.into(), force, false).await
    }

    /// Brings a removed agent back as it was.
    pub async fn restore_agent(&self, id: impl Into<String>) -> Result<Agent, Error> {
        self.remove(id.into(), false, true).await
    }

    async fn remove(&self, id: String, force: bool, undo: bool) -> Result<Agent, Error> {
        let request = v1::RemoveAgentRequest { namespace: self.ns(), agent_id: id, force, undo };
        let answer = self
            .call("RemoveAgent", request, |request| {
                let mut agents = self.agents();
                async move { agents.remove_agent(request).await }
            })
            .await?;
        there("RemoveAgent", answer.agent)
    }
}
