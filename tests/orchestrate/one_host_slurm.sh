#!/usr/bin/env bash
# A Slurm cluster of two nodes on this one host, for tests: start | stop. Needs root and Debian's slurm-wlm and munge.
# No systemd, no control groups; the GPUs are pretended by character devices. State lives under $SLURM_HOME.
set -euo pipefail
home=${SLURM_HOME:-/tmp/regatta-slurm}
host=$(hostname -s)

stop() {
    for pid_file in "$home"/slurmctld.pid "$home"/slurmd-n1.pid "$home"/slurmd-n2.pid; do
        [ -s "$pid_file" ] && kill "$(cat "$pid_file")" 2> /dev/null || true
    done
}

start() {
    mkdir -p "$home"/{state,spool-n1,spool-n2,log,dev} /etc/slurm /run/munge /var/lib/munge /var/log/munge /etc/munge
    [ -s /etc/munge/munge.key ] || dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key 2> /dev/null
    grep -q ' n1 n2$' /etc/hosts || echo '127.0.0.1 n1 n2' >> /etc/hosts
    chown -R munge: /etc/munge /run/munge /var/lib/munge /var/log/munge
    chmod 400 /etc/munge/munge.key
    chmod 755 /run/munge
    pgrep -x munged > /dev/null || runuser -u munge -- /usr/sbin/munged
    # Slurm hands out character devices only: with plain files CUDA_VISIBLE_DEVICES stays empty.
    for number in 0 1 2 3; do
        [ -c "$home/dev/gpu$number" ] || mknod "$home/dev/gpu$number" c 1 3
    done
    # cred_expire: a job that is queued again waits until its credential has expired (2 minutes by default).
    cat > /etc/slurm/slurm.conf << CONF
ClusterName=onehost
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool-%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd-%n.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
InactiveLimit=0
KillWait=5
MinJobAge=300
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=4 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=4 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=short Nodes=n1,n2 MaxTime=10 State=UP OverSubscribe=NO
CONF
    cat > /etc/slurm/gres.conf << CONF
NodeName=n1 Name=gpu File=$home/dev/gpu[0-1]
NodeName=n2 Name=gpu File=$home/dev/gpu[2-3]
CONF
    printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no ConstrainCores=no ConstrainDevices=no ConstrainRAMSpace=no \
        > /etc/slurm/cgroup.conf
    /usr/sbin/slurmctld
    /usr/sbin/slurmd -N n1
    /usr/sbin/slurmd -N n2
    for _ in $(seq 100); do
        [ "$(sinfo -h -p main -t idle -o %D 2> /dev/null)" = 2 ] && return
        sleep 0.2
    done
    sinfo >&2
    exit 1
}

start_once() {
    # Test processes may come here at the same time. The daemons must not keep the lock.
    exec 9> "$home.lock"
    flock 9
    sinfo > /dev/null 2>&1 || { stop; start 9>&-; }
}

case ${1:-} in
    start) start_once ;;
    stop) stop ;;
    *) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
