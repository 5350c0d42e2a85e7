import { expect, it } from 'vitest';

import type { Host } from '$api/types';

import { byTeam, countHosts, enrolCommand, sandboxesOn, specs } from './hosts';

const host = (changes: Partial<Host>) =>
	({ status: 'online', sandbox_counts: { running: 1, paused: 2, other: 3 }, ...changes }) as Host;

it('counts hosts by status', () =>
	expect(countHosts([host({}), host({ status: 'pending' }), host({ status: 'unreachable' })])).toEqual({
		total: 3,
		online: 1,
		pending: 1,
		unreachable: 1
	}));

it('says what a machine has, and nothing before it has said so itself', () => {
	expect(specs(host({ cpu_cores: 8, memory_mb: 16_384, disk_gb: 200 }))).toBe(
		'8 cores · 16 GB · 200 GB disk'
	);
	expect(specs(host({}))).toBe('');
});

it('counts every sandbox on a host', () => expect(sandboxesOn(host({}))).toBe(6));

it('groups by team, by name', () => {
	const groups = byTeam([
		host({ id: 'host-1', team_id: 'team-b', team_name: 'Reef' }),
		host({ id: 'host-2', team_id: 'team-a', team_name: 'Lagoon' }),
		host({ id: 'host-3', team_id: 'team-b', team_name: 'Reef' })
	]);
	expect(groups.map(({ team, hosts }) => [team, hosts.length])).toEqual([
		['Lagoon', 1],
		['Reef', 2]
	]);
});

it('keeps the token out of the arguments', () =>
	expect(enrolCommand('atr_x', 'https://a.example')).toBe(
		'ATOLL_REGISTER=atr_x atoll host --server https://a.example'
	));
