//! A task as asked for: checked, with defaults filled in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hive_core::record::{DisconnectPolicy, Priority, Requirement, RetryPolicy, TaskSpec};
use hive_proto::v1;
use tonic::Status;

use super::check::{self, Limits};
use super::error::invalid;
use crate::config::TaskDefaults;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn task_spec(
    spec: Option<v1::TaskSpec>,
    defaults: &TaskDefaults,
    limits: &Limits,
) -> Result<(Arc<TaskSpec>, Option<Bytes>), Status> {
    let spec = spec.ok_or_else(|| invalid("spec", "is missing"))?;
    let digest = check::digest(&spec);
    let Some(capability) = spec.capabilities.first().cloned() else {
        return Err(invalid("spec.capabilities", "must name at least one capability"));
    };
    let priority = match v1::Priority::try_from(spec.priority) {
        Ok(v1::Priority::Unspecified | v1::Priority::Normal) => Priority::Normal,
        Ok(v1::Priority::Low) => Priority::Low,
        Ok(v1::Priority::High) => Priority::High,
        Ok(v1::Priority::Critical) => Priority::Critical,
        Err(_) => return Err(invalid("spec.priority", format!("{} is not a priority", spec.priority))),
    };
    let disconnect = match v1::DisconnectPolicy::try_from(spec.disconnect_policy) {
        Ok(v1::DisconnectPolicy::Unspecified | v1::DisconnectPolicy::Replace) => DisconnectPolicy::Replace,
        Ok(v1::DisconnectPolicy::Stop) => DisconnectPolicy::Stop,
        Ok(v1::DisconnectPolicy::Wait) => DisconnectPolicy::Wait,
        Err(_) => {
            let text = format!("{} is not a policy", spec.disconnect_policy);
            return Err(invalid("spec.disconnect_policy", text));
        }
    };
    let requirement = Requirement {
        capabilities: check::capabilities("spec.capabilities", &spec.capabilities, limits)?,
        labels: check::labels("spec.agent_labels", spec.agent_labels, limits)?,
        pool: check::pool("spec.pool", &spec.pool)?,
    };
    let payload = check::body("spec.payload", spec.payload, limits)?;
    let within = |field, value, default, most| check::duration(field, value, default, SECOND, most);
    let checked = TaskSpec {
        requirement,
        capability: capability.into(),
        priority,
        payload: payload.body,
        labels: check::labels("spec.labels", spec.labels, limits)?,
        retry: retry(spec.retry.unwrap_or_default(), defaults)?,
        attempt_timeout: within("spec.attempt_timeout", spec.attempt_timeout, defaults.attempt_timeout, 7 * DAY)?,
        queue_timeout: within("spec.queue_timeout", spec.queue_timeout, defaults.queue_deadline, 30 * DAY)?,
        input_timeout: within("spec.input_timeout", spec.input_timeout, defaults.input_wait, 7 * DAY)?,
        disconnect,
        digest,
    };
    Ok((Arc::new(checked), payload.blob))
}

fn retry(retry: v1::RetryPolicy, defaults: &TaskDefaults) -> Result<RetryPolicy, Status> {
    let max_failures = match retry.max_failures {
        0 => defaults.max_failures,
        failures if failures <= 100 => failures,
        failures => return Err(invalid("spec.retry.max_failures", format!("is {failures}, at most 100 are allowed"))),
    };
    let zero = Duration::ZERO;
    let hour = Duration::from_secs(3600);
    let base_delay = check::duration("spec.retry.base_delay", retry.base_delay, defaults.backoff, zero, hour)?;
    let max_delay = check::duration("spec.retry.max_delay", retry.max_delay, defaults.backoff_cap, zero, DAY)?;
    Ok(RetryPolicy { max_failures, base_delay, max_delay })
}
