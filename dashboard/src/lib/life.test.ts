import { expect, it } from 'vitest';

import type { SandboxEvent } from '$api/types';

import { lifeOf, likeIt, rangeBefore, resumeText } from './life';

const START = Date.UTC(2026, 0, 1);
const at = (seconds: number) => new Date(START + seconds * 1000).toISOString();
const event = (seconds: number, status: SandboxEvent['status']): SandboxEvent => ({
	at: at(seconds),
	status,
	reason: null
});

it('adds up how long it ran and stood still, whatever the order it is told in', () => {
	const events = [
		event(0, 'pending'),
		event(1, 'running'),
		event(61, 'pausing'),
		event(62, 'paused'),
		event(162, 'resuming'),
		event(163, 'running')
	];
	expect(lifeOf(events.toReversed(), START + 200_000)).toEqual({
		lasted: 200,
		ran: 97,
		paused: 100,
		starts: 2
	});
	// What is over lasts no longer.
	expect(lifeOf([...events, event(173, 'stopped')], START + 9_000_000)).toEqual({
		lasted: 173,
		ran: 70,
		paused: 100,
		starts: 2
	});
	expect(lifeOf([], START)).toEqual({ lasted: 0, ran: 0, paused: 0, starts: 0 });
});

it('asks for metrics from before it stood still', () => {
	const before = (seconds: number) => rangeBefore(at(0), START + seconds * 1000);
	expect([0, 60, 3000, 80_000, 500_000, 9_999_999].map(before)).toEqual([
		'10m',
		'10m',
		'2h',
		'7d',
		'7d',
		'30d'
	]);
});

it('promises of a resume what it does', () => {
	expect(resumeText({ driver: 'vm' })).not.toMatch(/reboot/);
	expect(resumeText({ driver: 'container' })).toMatch(/After a reboot of its host/);
});

it('says how to make another one like it', () =>
	expect(likeIt({ template: 'base', vcpus: 2, memory_mb: 512, disk_mb: 5120 })).toBe(
		'atoll sandbox create --template base --vcpus 2 --memory 512 --disk 5120'
	));
