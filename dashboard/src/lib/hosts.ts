// What the statuses of a host mean for people, and what is counted of many.
import type { Host, HostStatus } from '$api/types';

import { megabytes } from './size';
import type { Shape, Tone } from './status';

const MEANINGS: Record<HostStatus, { word: string; tone: Tone; shape: Shape; means: string }> = {
	online: { word: 'Online', tone: 'good', shape: 'ring', means: 'It beats, and takes sandboxes.' },
	pending: {
		word: 'Pending',
		tone: 'info',
		shape: 'turning',
		means: 'Made, and waiting for its agent to register.'
	},
	unreachable: {
		word: 'Unreachable',
		tone: 'bad',
		shape: 'broken',
		means: 'Nothing was heard of it for too long. Its sandboxes may well live; they show as missing.'
	},
	offline: { word: 'Offline', tone: 'idle', shape: 'hollow', means: 'Its agent was stopped in order.' }
};

export const hostMeaning = (status: string) =>
	MEANINGS[status as HostStatus] ?? {
		word: status,
		tone: 'idle' as const,
		shape: 'hollow' as const,
		means: ''
	};

export interface HostCounts {
	total: number;
	online: number;
	pending: number;
	unreachable: number;
}

export function countHosts(hosts: Host[]): HostCounts {
	const of = (status: HostStatus) => hosts.filter((host) => host.status === status).length;
	return {
		total: hosts.length,
		online: of('online'),
		pending: of('pending'),
		unreachable: of('unreachable')
	};
}

/** `8 cores · 16 GB`; empty until it has registered. */
export function power(host: Host): string {
	const parts = [];
	if (host.cpu_cores) parts.push(`${host.cpu_cores} ${host.cpu_cores === 1 ? 'core' : 'cores'}`);
	if (host.memory_mb) parts.push(megabytes(host.memory_mb));
	return parts.join(' · ');
}

/** `8 cores · 16 GB · 200 GB disk`; empty until it has registered. */
export const specs = (host: Host) =>
	[power(host), host.disk_gb ? `${host.disk_gb} GB disk` : ''].filter(Boolean).join(' · ');

export const sandboxesOn = ({ sandbox_counts: { running, paused, other } }: Host) => running + paused + other;

/** Whether a new token may be asked for: not while it is well. */
export const canEnrolAgain = (host: Host) => host.status !== 'online';

/** What to run on the machine. The token is in the environment: arguments are visible to everybody there. */
export const enrolCommand = (token: string, server: string) =>
	`ATOLL_REGISTER=${token} atoll host --server ${server}`;

/** Teams by name, each with its hosts by name. */
export function byTeam(hosts: Host[]): { team: string; id: string; hosts: Host[] }[] {
	const groups = new Map<string, { team: string; id: string; hosts: Host[] }>();
	for (const host of hosts) {
		const id = host.team_id ?? '';
		const group = groups.get(id) ?? { team: host.team_name ?? id, id, hosts: [] };
		group.hosts.push(host);
		groups.set(id, group);
	}
	return [...groups.values()].toSorted((a, b) => a.team.localeCompare(b.team));
}

export function isHost(object: unknown): object is Host {
	const host = object as Host | null;
	return typeof host?.id === 'string' && typeof host.status === 'string' && 'sandbox_counts' in host;
}
