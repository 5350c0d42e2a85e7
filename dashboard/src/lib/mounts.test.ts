import { expect, it } from 'vitest';

import { mountText, parseSecrets, parseVolumes, withSecret, withVolume } from './mounts';

it('reads secrets as variables, under their own name when no other is given', () =>
	expect(parseSecrets('TOKEN=api-token, OPENAI_API_KEY')).toEqual({
		TOKEN: 'api-token',
		OPENAI_API_KEY: 'OPENAI_API_KEY'
	}));

it('reads volumes with their paths; what is left out is for the server to refuse', () =>
	expect(parseVolumes('data:/mnt/data models:/mnt/models:ro lost')).toEqual([
		{ volume: 'data', path: '/mnt/data' },
		{ volume: 'models', path: '/mnt/models', read_only: true },
		{ volume: 'lost', path: '' }
	]));

it('says what a sandbox has', () => {
	const mount = { volume_id: 'vol-1', volume: 'data', path: '/mnt/data', read_only: false };
	expect(mountText(mount)).toBe('data at /mnt/data');
	expect(mountText({ ...mount, read_only: true })).toBe('data at /mnt/data, read only');
});

it('adds what there is by name, once', () => {
	expect(withSecret('', 'api-token')).toBe('API_TOKEN=api-token');
	expect(withSecret('A=b', '9.lives')).toBe('A=b _9_LIVES=9.lives');
	expect(withSecret('T=api-token', 'api-token')).toBe('T=api-token');
	expect(withVolume('data:/srv:ro', 'models')).toBe('data:/srv:ro models:/mnt/models');
	expect(withVolume('data:/srv:ro', 'data')).toBe('data:/srv:ro');
});
