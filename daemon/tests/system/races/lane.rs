//! The rounds about one workload after the other.

use std::{sync::Arc, time::Duration};

use lifeboat_format::{Head, HeadState, LatestManifest, keys};
use lifeboat_proto::id::WorkloadName;
use lifeboat_store::Call;
use lifeboatd::claim::{Decision, Wish};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::oneshot;

use super::{
    contender::{Act, Contender, commit_one, is_lost},
    count::Count,
    node::Node,
};

/// Most of those who have lost their right and try all the same.
const GHOSTS_MAX: usize = 3;

/// Longest head start of one contender over another.
const HEAD_START: Duration = Duration::from_millis(6);

/// Longest time for looking at what has become of it.
pub(super) const LOOK: Duration = Duration::from_secs(20);

/// How a claim ended.
enum Claimed {
    /// With the right.
    Won(Decision),
    /// Somebody else has it.
    Waits { owner: String },
}

/// One workload at a time.
pub(super) struct Lane {
    /// What was seen.
    pub count: Count,
    seed: u64,
    number: u64,
    chance: StdRng,
    nodes: Arc<Vec<Node>>,
    truth: Arc<Node>,
    name: WorkloadName,
    /// Who has the right, unless it was given up.
    source: Option<Contender>,
    /// Who had it.
    ghosts: Vec<Contender>,
    instances: u64,
}

impl Lane {
    pub(super) fn new(seed: u64, number: u64, nodes: Arc<Vec<Node>>, truth: Arc<Node>) -> Self {
        Self {
            count: Count::default(),
            seed,
            number,
            chance: StdRng::seed_from_u64(seed.wrapping_mul(1009).wrapping_add(number)),
            nodes,
            truth,
            name: "none".parse().unwrap(),
            source: None,
            ghosts: Vec::new(),
            instances: 0,
        }
    }

    /// Goes on with a workload that nobody knows yet.
    pub(super) fn begin_anew(&mut self, generation: u64) {
        let name = format!("race-{}-{}-{generation}", self.seed, self.number);
        self.name = name.parse().unwrap();
        self.source = None;
        self.ghosts.clear();
    }

    /// Some claim it, then all commit.
    pub(super) async fn round(&mut self) {
        let before = self.head().await;
        let released = before
            .as_ref()
            .is_none_or(|head| matches!(head.state, HeadState::Evacuated | HeadState::Finished));
        let winners = if released {
            vec![self.claim_released(before.as_ref()).await]
        } else {
            let before = before.expect("it has an owner");
            self.take_over(&before).await
        };
        self.commit(winners).await;
    }

    async fn head(&self) -> Option<Head> {
        let read = self.truth.context.heads.read(&self.name).await.unwrap();
        read.map(|right| right.head)
    }

    fn contenders(&mut self) -> Vec<Contender> {
        let number = self.chance.random_range(2..=self.nodes.len());
        (0..number)
            .map(|node| {
                self.instances += 1;
                let instance = format!("hold-{}-{}", self.number, self.instances);
                Contender::new(node, &self.name, instance)
            })
            .collect()
    }

    /// Has all of them claim at once. Whoever sees that another one of them has it stops there.
    async fn claims(
        &mut self,
        contenders: &[Contender],
        take_over: bool,
    ) -> Vec<(Contender, bool, Claimed)> {
        let owners: Arc<[String]> = contenders
            .iter()
            .map(|one| one.workload.instance.clone())
            .collect();
        let claims = contenders.iter().map(|one| {
            let wish = Wish {
                owner: one.workload.instance.clone(),
                uid: 0,
                // Not in a chain of claims, where one that is superseded before its answer is read has
                // been a link of it all the same, and is made again.
                fresh: !take_over && self.chance.random_bool(0.1),
                take_over,
            };
            let delay = self.chance.random_range(Duration::ZERO..HEAD_START);
            let (one, owners, nodes) = (one.clone(), Arc::clone(&owners), Arc::clone(&self.nodes));
            let name = self.name.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let (tell, told) = oneshot::channel();
                let mut tell = Some(tell);
                let claim = nodes[one.node].context.heads.claim(&name, &wish, |head| {
                    if owners.contains(&head.owner)
                        && let Some(tell) = tell.take()
                    {
                        drop(tell.send(head.owner.clone()));
                    }
                });
                let claimed = tokio::select! {
                    claimed = claim => {
                        let (right, decision) = claimed.unwrap();
                        assert_eq!(right.head.owner, wish.owner);
                        *one.workload.right.lock().await = Some(right);
                        Claimed::Won(decision)
                    }
                    Ok(owner) = told => Claimed::Waits { owner },
                };
                (one, wish.fresh, claimed)
            })
        });
        let claims = futures::future::join_all(claims.collect::<Vec<_>>()).await;
        claims.into_iter().map(Result::unwrap).collect()
    }

    /// Nobody has it: exactly one gets it.
    async fn claim_released(&mut self, before: Option<&Head>) -> Contender {
        let contenders = self.contenders();
        let claimed = self.claims(&contenders, false).await;
        self.count.claims += 1;
        let winner = self.one_winner(claimed, before);
        let now = self.head().await.unwrap();
        assert_eq!(now.epoch.0, before.map_or(0, |head| head.epoch.0) + 1);
        winner
    }

    /// Exactly one has won, all others have seen that, and it goes on from where it was.
    fn one_winner(
        &self,
        claimed: Vec<(Contender, bool, Claimed)>,
        base: Option<&Head>,
    ) -> Contender {
        let mut winners = Vec::new();
        let mut seen = Vec::new();
        for (one, fresh, how) in claimed {
            match how {
                Claimed::Won(decision) => winners.push((one, fresh, decision)),
                Claimed::Waits { owner } => seen.push(owner),
            }
        }
        assert_eq!(winners.len(), 1, "{}: seed {}", self.name, self.seed);
        let (winner, fresh, decision) = winners.remove(0);
        for owner in seen {
            assert_eq!(owner, winner.workload.instance, "{}", self.name);
        }
        let finished = base.is_some_and(|head| head.state == HeadState::Finished);
        let mut latest = base.and_then(|head| head.latest).filter(|_| !finished);
        follows(&decision, fresh, &mut latest, &self.name);
        winner
    }

    /// Somebody has it and is presumed dead, but is not.
    async fn take_over(&mut self, before: &Head) -> Vec<Contender> {
        let contenders = self.contenders();
        let by_force = !self.chance.random_bool(0.08);
        let act = match self.chance.random_range(0..10) {
            0..5 => Act::Evacuate,
            5..8 => Act::Checkpoint,
            _ => Act::Renew,
        };
        let delay = self.chance.random_range(Duration::ZERO..HEAD_START);
        let source = self.source.take();
        let acting = source.clone().map(|source| {
            let nodes = Arc::clone(&self.nodes);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                act.done_by(&source, &nodes[source.node]).await
            })
        });
        let claimed = self.claims(&contenders, by_force).await;
        self.count.claims += 1;
        self.count.silences += u64::from(!by_force);
        // What it began before it was succeeded has counted, or it is told that it has not.
        let committed = match acting {
            Some(acting) => acting.await.unwrap(),
            None => None,
        };
        if source.is_some() && !matches!(act, Act::Renew) {
            self.count.takeovers += 1;
            self.count.source_first += u64::from(committed.is_some());
            self.count.source_late += u64::from(committed.is_none());
        }
        self.ghosts.extend(source);
        let mut base = before.clone();
        base.latest = committed.or(before.latest);
        if by_force {
            self.chain(claimed, &base).await
        } else {
            vec![self.one_winner(claimed, Some(&base))]
        }
    }

    /// All have won, one after the other, and each goes on from where the one before was.
    async fn chain(&self, claimed: Vec<(Contender, bool, Claimed)>, base: &Head) -> Vec<Contender> {
        let mut chain = Vec::new();
        for (one, fresh, how) in claimed {
            let Claimed::Won(decision) = how else {
                panic!("{}: whoever takes over does not wait", self.name)
            };
            let epoch = one.workload.right.lock().await.as_ref().unwrap().head.epoch;
            chain.push((epoch, one, fresh, decision));
        }
        chain.sort_by_key(|(epoch, ..)| *epoch);
        let mut last = base.epoch;
        let mut latest = base.latest;
        for (epoch, _, fresh, decision) in &chain {
            assert!(*epoch > last, "{}: two have epoch {last}", self.name);
            last = *epoch;
            follows(decision, *fresh, &mut latest, &self.name);
        }
        let now = self.head().await.unwrap();
        assert_eq!(now.epoch, last, "{}", self.name);
        chain.into_iter().map(|(_, one, ..)| one).collect()
    }

    /// All who have the right, or had it, commit: only the last one to get it does.
    async fn commit(&mut self, winners: Vec<Contender>) {
        let owner = self.head().await.unwrap().owner;
        let all: Vec<Contender> = winners.into_iter().chain(self.ghosts.drain(..)).collect();
        let commits = all.into_iter().map(|one| {
            let leaves = self.chance.random_bool(0.5);
            let delay = self.chance.random_range(Duration::ZERO..HEAD_START);
            let nodes = Arc::clone(&self.nodes);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let done = commit_one(&one, &nodes[one.node], leaves).await;
                (one, leaves, done)
            })
        });
        let done = futures::future::join_all(commits.collect::<Vec<_>>()).await;
        let mut committed = Vec::new();
        self.count.commits += u64::from(done.len() > 1);
        for one in done {
            let (one, leaves, done) = one.unwrap();
            match done {
                Ok(latest) => committed.push((one, leaves, latest)),
                Err(error) => {
                    assert!(is_lost(&error), "{}: {error:?}", self.name);
                    self.ghosts.push(one);
                }
            }
        }
        assert_eq!(committed.len(), 1, "{}: seed {}", self.name, self.seed);
        let (one, leaves, latest) = committed.remove(0);
        assert_eq!(one.workload.instance, owner, "{}", self.name);
        let now = self.head().await.unwrap();
        assert_eq!(now.latest, Some(latest), "{}", self.name);
        assert_eq!(now.owner, owner, "{}", self.name);
        assert_eq!(now.state == HeadState::Evacuated, leaves, "{}", self.name);
        self.look_for(&latest).await;
        let excess = self.ghosts.len().saturating_sub(GHOSTS_MAX);
        self.ghosts.drain(..excess);
        self.source = (!leaves).then_some(one);
    }

    /// What a head names is there.
    async fn look_for(&self, latest: &LatestManifest) {
        let key = keys::checkpoint(&self.name, latest.epoch, latest.checkpoint);
        let (key, call) = (key.parse().unwrap(), Call::within(LOOK));
        let found = self.truth.context.store.head(&key, call).await;
        found.unwrap();
    }
}

/// Checks a decision against the latest checkpoint; the next claim's is what remains of it.
fn follows(
    decision: &Decision,
    fresh: bool,
    latest: &mut Option<LatestManifest>,
    name: &WorkloadName,
) {
    if fresh {
        *latest = None;
    }
    match (decision, &*latest) {
        (Decision::Start { .. }, None) => {}
        (Decision::Restore { latest: one }, Some(other)) if one == other => {}
        _ => panic!("{name}: {decision:?}, but the latest checkpoint is {latest:?}"),
    }
}
