// Secrets and volumes of a new sandbox as people type them, in the forms that the command line has.
import type { Mount, VolumeMount } from '$api/types';

const words = (text: string) => text.split(/[\s,]+/).filter(Boolean);

/** `VARIABLE=secret`, or the secret's name alone. */
export const parseSecrets = (text: string): Record<string, string> =>
	Object.fromEntries(
		words(text).map((word) => {
			const split = word.indexOf('=');
			return split < 0 ? [word, word] : [word.slice(0, split), word.slice(split + 1)];
		})
	);

/** `volume:/path`, with `:ro` behind it to read only. */
export const parseVolumes = (text: string): VolumeMount[] =>
	words(text).map((word) => {
		const read_only = word.endsWith(':ro');
		const rest = read_only ? word.slice(0, -3) : word;
		const split = rest.indexOf(':');
		const [volume, path] = split < 0 ? [rest, ''] : [rest.slice(0, split), rest.slice(split + 1)];
		return { volume, path, ...(read_only ? { read_only } : {}) };
	});

/** What a sandbox has, for people. */
export const mountText = ({ volume, path, read_only }: Mount): string =>
	`${volume} at ${path}${read_only ? ', read only' : ''}`;

/** The text with one secret more, under a variable that is called like it; as it was when it has the secret already. */
export function withSecret(text: string, secret: string): string {
	if (Object.values(parseSecrets(text)).includes(secret)) return text;
	const variable = secret.toUpperCase().replace(/[^A-Z0-9]+/g, '_');
	return [...words(text), `${/^[0-9]/.test(variable) ? '_' : ''}${variable}=${secret}`].join(' ');
}

/** The text with one volume more, mounted under /mnt. */
export function withVolume(text: string, volume: string): string {
	if (parseVolumes(text).some((mount) => mount.volume === volume)) return text;
	return [...words(text), `${volume}:/mnt/${volume}`].join(' ');
}
