#!/bin/sh
# Makes the user, the token and the roles that spot needs in Proxmox VE, and nothing beyond.
#
#   rights.sh [--user spot@pve] [--token spot] [--hibernate STORAGE]... [--print] NODE...
#
# NODE is each host that spot may put to sleep, by PVE's own name. Leave out the hosts that are always
# on (tier low): without Sys.PowerMgmt there, PVE itself refuses to power them off. --hibernate adds
# what hibernation needs, with STORAGE where guests' memory is kept. --print only shows the lines.
#
# Run it as root on any host of the cluster. It may be run again: roles and grants are set anew, and a
# token that is there stays as it is. The secret of a new token is shown once, at the end.
set -eu

user=spot@pve
token=spot
states=
print=
nodes=

usage() {
    sed -n 's/^#   //p' "$0" >&2
    echo "$1" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --user | --token | --hibernate)
            [ $# -ge 2 ] || usage "$1 needs a value"
            case $1 in
                --user) user=$2 ;;
                --token) token=$2 ;;
                --hibernate) states="$states $2" ;;
            esac
            shift
            ;;
        --print) print=yes ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) usage "there is no option $1" ;;
        *) nodes="$nodes $1" ;;
    esac
    shift
done
[ -n "$nodes" ] || usage "name the hosts that spot may put to sleep"
case $user in *@*) ;; *) usage "--user is a name and a realm, such as spot@pve" ;; esac
for word in $user $token $states $nodes; do
    case $word in *[!A-Za-z0-9@._-]*) usage "\`$word\` is no name of PVE's" ;; esac
done

# The quotes keep an interactive shell from reading the `!`.
allow() {
    if [ -n "$print" ]; then
        echo "pveum acl modify $1 --roles $2 $3 '$4'"
    else
        pveum acl modify "$1" --roles "$2" "$3" "$4"
    fi
}

# What is there already is set anew; what is not is made.
role() {
    if [ -n "$print" ]; then
        echo "pveum role add $1 --privs $2"
    else
        pveum role modify "$1" --privs "$2" 2>/dev/null || pveum role add "$1" --privs "$2"
    fi
}

# The token has the intersection of its own rights and its user's, so both get each role.
grant() {
    allow "$1" "$2" --users "$user"
    allow "$1" "$2" --tokens "$user!$token"
}

role SpotAudit Sys.Audit,Datastore.Audit
role SpotNode Sys.Audit,Sys.PowerMgmt
role SpotGuest VM.Audit,VM.Migrate,VM.PowerMgmt
if [ -n "$states" ]; then
    role SpotHibernate VM.Config.Disk
    role SpotStore Datastore.Audit,Datastore.AllocateSpace
fi

secret=
if [ -n "$print" ]; then
    echo "pveum user add $user"
    echo "pveum user token add $user $token --privsep 1"
else
    pveum user add "$user" 2>/dev/null || echo "the user $user is there already"
    secret=$(pveum user token add "$user" "$token" --privsep 1 2>/dev/null) ||
        echo "the token $user!$token is there already"
fi

grant / SpotAudit
for node in $nodes; do grant "/nodes/$node" SpotNode; done
grant /vms SpotGuest
if [ -n "$states" ]; then
    grant /vms SpotHibernate
    for store in $states; do grant "/storage/$store" SpotStore; done
fi

if [ -n "$secret" ]; then
    echo "The secret (value) below belongs into spot's credential and nowhere else:"
    echo "$secret"
fi
