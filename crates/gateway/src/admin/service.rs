//! The calls, one by one: who asks, what it needs, and whose room it is done in. No rule lives here.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use store::engine::Engine;
use tonic::{Request, Response, Status};
use wire::proto::v1 as pb;

use super::caller::principal;
use super::failure::Failure;
use super::forward::Nature;
use super::status::{moment_of, only};
use super::{AdminService, views};

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Failure>) -> Answer<T> {
    result.map(Response::new).map_err(Status::from)
}

#[tonic::async_trait]
impl<E: Engine> pb::admin_server::Admin for AdminService<E> {
    async fn get_status(&self, request: Request<pb::GetStatusRequest>) -> Answer<pb::ClusterStatus> {
        let asked = *request.get_ref();
        let at_leader = self.best_answer(&request, asked.this_node, |mut api, request| async move {
            api.get_status(request).await
        });
        match at_leader.await? {
            Some(answered) => Ok(answered),
            None => Ok(Response::new(self.cluster_status(moment_of(asked.gaps_since)))),
        }
    }

    async fn list_alarms(&self, request: Request<pb::ListAlarmsRequest>) -> Answer<pb::ListAlarmsResponse> {
        let at_leader =
            self.best_answer(&request, request.get_ref().this_node, |mut api, request| async move {
                api.list_alarms(request).await
            });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let alarms = self.facts(&self.replica().status()).alarms();
        Ok(Response::new(pb::ListAlarmsResponse { alarms }))
    }

    async fn validate_config(
        &self,
        request: Request<pb::ValidateConfigRequest>,
    ) -> Answer<pb::ValidateConfigResponse> {
        answer(self.validate(request.into_inner().files).await)
    }

    async fn plan_config(&self, request: Request<pb::PlanConfigRequest>) -> Answer<pb::PlanConfigResponse> {
        answer(self.plan(request.into_inner().files).await)
    }

    async fn apply_config(
        &self,
        request: Request<pb::ApplyConfigRequest>,
    ) -> Answer<pb::ApplyConfigResponse> {
        let principal = principal(&request);
        answer(self.apply(request.into_inner(), &principal).await)
    }

    async fn get_config(&self, request: Request<pb::GetConfigRequest>) -> Answer<pb::GetConfigResponse> {
        answer(self.get(request.into_inner().revision))
    }

    async fn list_revisions(
        &self,
        request: Request<pb::ListRevisionsRequest>,
    ) -> Answer<pb::ListRevisionsResponse> {
        let revisions = self.revisions(request.into_inner().limit);
        Ok(Response::new(pb::ListRevisionsResponse { revisions }))
    }

    async fn diff_config(&self, request: Request<pb::DiffConfigRequest>) -> Answer<pb::DiffConfigResponse> {
        let asked = request.into_inner();
        answer(self.diff(asked.from, asked.to).await)
    }

    async fn rollback_config(
        &self,
        request: Request<pb::RollbackConfigRequest>,
    ) -> Answer<pb::ApplyConfigResponse> {
        let principal = principal(&request);
        answer(self.rollback(request.into_inner(), &principal).await)
    }

    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Answer<pb::ListMembersResponse> {
        let at_leader =
            self.best_answer(&request, request.get_ref().this_node, |mut api, request| async move {
                api.list_members(request).await
            });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let members = self.members(&self.replica().status(), self.now());
        Ok(Response::new(pb::ListMembersResponse { members, waiting: self.waiting() }))
    }

    async fn add_member(&self, request: Request<pb::AddMemberRequest>) -> Answer<pb::AddMemberResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Change, |mut api, request| async move {
            api.add_member(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let principal = principal(&request);
        answer(self.add_member(request.into_inner(), &principal).await)
    }

    async fn promote_member(
        &self,
        request: Request<pb::PromoteMemberRequest>,
    ) -> Answer<pb::PromoteMemberResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Change, |mut api, request| async move {
            api.promote_member(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let principal = principal(&request);
        let done = self.promote_member(&request.into_inner(), &principal).await;
        answer(done.map(|()| pb::PromoteMemberResponse {}))
    }

    async fn replace_member(
        &self,
        request: Request<pb::ReplaceMemberRequest>,
    ) -> Answer<pb::ReplaceMemberResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Change, |mut api, request| async move {
            api.replace_member(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let principal = principal(&request);
        let done = self.replace_member(&request.into_inner(), &principal).await;
        answer(done.map(|()| pb::ReplaceMemberResponse {}))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Answer<pb::RemoveMemberResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Change, |mut api, request| async move {
            api.remove_member(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let principal = principal(&request);
        let done = self.remove_member(&request.into_inner(), &principal).await;
        answer(done.map(|()| pb::RemoveMemberResponse {}))
    }

    async fn drain_member(
        &self,
        request: Request<pb::DrainMemberRequest>,
    ) -> Answer<pb::DrainMemberResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Change, |mut api, request| async move {
            api.drain_member(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let principal = principal(&request);
        let asked = request.into_inner();
        let leader = self.drain(&asked.name, &asked.reason, &principal).await;
        answer(leader.map(|leader| pb::DrainMemberResponse { leader }))
    }

    async fn resume_member(
        &self,
        request: Request<pb::ResumeMemberRequest>,
    ) -> Answer<pb::ResumeMemberResponse> {
        if let Some(leader) = self.leader_at_last(&request).await? {
            let resume = leader.ask(Nature::Change, &request, |mut api, request| async move {
                api.resume_member(request).await
            });
            return resume.await;
        }
        let principal = principal(&request);
        let asked = request.into_inner();
        let resumed = self.resume(&asked.name, &asked.reason, &principal).await;
        answer(resumed.map(|()| pb::ResumeMemberResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<pb::TransferLeadershipRequest>,
    ) -> Answer<pb::TransferLeadershipResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Change, |mut api, request| async move {
            api.transfer_leadership(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let principal = principal(&request);
        let asked = request.into_inner();
        answer(self.transfer(&asked.to, &asked.reason, &principal).await)
    }

    async fn list_devices(
        &self,
        request: Request<pb::ListDevicesRequest>,
    ) -> Answer<pb::ListDevicesResponse> {
        let this_node = request.get_ref().this_node;
        let at_leader = self.at_leader(&request, this_node, Nature::Look, |mut api, request| async move {
            api.list_devices(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let asked = request.into_inner();
        let all = self.devices(self.replica().status().holds_lease);
        if let Some(unknown) = asked.ids.iter().find(|id| !all.iter().any(|device| device.id == **id)) {
            return Err(Failure::NoSuchDevice(unknown.clone()).into());
        }
        let devices = only(all, &asked.ids, |device| &device.id);
        Ok(Response::new(pb::ListDevicesResponse { devices }))
    }

    async fn set_device_enabled(
        &self,
        request: Request<pb::SetDeviceEnabledRequest>,
    ) -> Answer<pb::SetDeviceEnabledResponse> {
        let principal = principal(&request);
        let done = self.set_device_enabled(request.into_inner(), &principal).await;
        answer(done.map(|()| pb::SetDeviceEnabledResponse {}))
    }

    async fn probe_device(
        &self,
        request: Request<pb::ProbeDeviceRequest>,
    ) -> Answer<pb::ProbeDeviceResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Look, |mut api, request| async move {
            api.probe_device(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        answer(self.probe_device(request.get_ref()).await)
    }

    async fn read_tags(&self, request: Request<pb::ReadTagsRequest>) -> Answer<pb::ReadTagsResponse> {
        let at_leader = self.at_leader(&request, false, Nature::Look, |mut api, request| async move {
            api.read_tags(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        answer(self.read_tags(request.into_inner()).await)
    }

    type WatchTagsStream = BoxStream<'static, Result<pb::WatchTagsResponse, Status>>;

    async fn watch_tags(&self, request: Request<pb::WatchTagsRequest>) -> Answer<Self::WatchTagsStream> {
        answer(self.watch(request.get_ref()).map(|readings| readings.boxed()))
    }

    async fn list_tags(&self, request: Request<pb::ListTagsRequest>) -> Answer<pb::ListTagsResponse> {
        answer(self.tags(&request.into_inner()))
    }

    async fn list_destinations(
        &self,
        request: Request<pb::ListDestinationsRequest>,
    ) -> Answer<pb::ListDestinationsResponse> {
        let this_node = request.get_ref().this_node;
        let at_leader = self.at_leader(&request, this_node, Nature::Look, |mut api, request| async move {
            api.list_destinations(request).await
        });
        if let Some(answered) = at_leader.await? {
            return Ok(answered);
        }
        let asked = request.into_inner();
        let (live, now) = (self.live().destinations(), self.now());
        let all = self.replica().store().keeper().read(|state| views::destinations(state, &live, now));
        if let Some(unknown) = asked.ids.iter().find(|id| !all.iter().any(|known| known.id == **id)) {
            return Err(Failure::NoSuchDestination(unknown.clone()).into());
        }
        let destinations = only(all, &asked.ids, |destination| &destination.id);
        Ok(Response::new(pb::ListDestinationsResponse { destinations }))
    }

    async fn set_destination_paused(
        &self,
        request: Request<pb::SetDestinationPausedRequest>,
    ) -> Answer<pb::SetDestinationPausedResponse> {
        let principal = principal(&request);
        let done = self.set_destination_paused(request.into_inner(), &principal).await;
        answer(done.map(|()| pb::SetDestinationPausedResponse {}))
    }

    async fn list_quarantine(
        &self,
        request: Request<pb::ListQuarantineRequest>,
    ) -> Answer<pb::ListQuarantineResponse> {
        answer(self.quarantine(&request.into_inner()))
    }

    async fn retry_quarantine(
        &self,
        request: Request<pb::RetryQuarantineRequest>,
    ) -> Answer<pb::RetryQuarantineResponse> {
        let principal = principal(&request);
        answer(self.retry_quarantine(request.into_inner(), &principal).await)
    }

    async fn get_buffer_stats(&self, _: Request<pb::GetBufferStatsRequest>) -> Answer<pb::BufferStats> {
        Ok(Response::new(self.buffer(&self.replica().status())))
    }

    async fn peek_buffer(&self, request: Request<pb::PeekBufferRequest>) -> Answer<pb::PeekBufferResponse> {
        answer(self.peek(request.get_ref()))
    }

    async fn list_gaps(&self, request: Request<pb::ListGapsRequest>) -> Answer<pb::ListGapsResponse> {
        Ok(Response::new(self.gap_records(&request.into_inner())))
    }

    async fn list_events(&self, request: Request<pb::ListEventsRequest>) -> Answer<pb::ListEventsResponse> {
        answer(self.events(&request.into_inner()))
    }
}
