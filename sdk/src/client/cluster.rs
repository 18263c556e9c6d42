//! The control plane itself.

use hive_proto::v1;

use super::{Client, Error};

impl Client {
    /// How the cluster stands, with the counts of this client's namespace.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Error> {
        let request = v1::GetStatusRequest { namespace: self.ns() };
        self.call("GetStatus", request, |request| {
            let mut cluster = self.cluster();
            async move { cluster.get_status(request).await }
        })
        .await
    }

    /// The control plane's replicas.
    pub async fn replicas(&self) -> Result<Vec<v1::Replica>, Error> {
        let answer = self
            .call("ListReplicas", v1::ListReplicasRequest {}, |request| {
                let mut cluster = self.cluster();
                async move { cluster.list_replicas(request).await }
            })
            .await?;
        Ok(answer.replicas)
    }
}
