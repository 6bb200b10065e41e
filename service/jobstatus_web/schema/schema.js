// The documentation of the API, drawn from its OpenAPI document.

import { byId, element } from "../page/dom.js";

/** @typedef {Record<string, any>} Part a part of the document */

const main = byId("view", HTMLElement);

/**
 * Return the name of a type.
 * @param {Part | undefined} schema
 * @returns {Node[]}
 */
function typeOf(schema) {
  if (!schema) return [];
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return [element("a", { href: `#${name}` }, name)];
  }
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) {
    return alternatives.flatMap((/** @type {Part} */ each, /** @type {number} */ i) =>
      i === 0 ? typeOf(each) : [document.createTextNode(" or "), ...typeOf(each)],
    );
  }
  if (schema.type === "array") return [document.createTextNode("array of "), ...typeOf(schema.items)];
  const words = [schema.format ?? schema.type ?? "any JSON"];
  if (schema.enum) words.push(`: ${schema.enum.join(", ")}`);
  if (schema.minimum !== undefined || schema.maximum !== undefined) {
    words.push(`, ${schema.minimum ?? ""} to ${schema.maximum ?? ""}`);
  }
  if (schema.default !== undefined && schema.default !== "") words.push(` (${schema.default})`);
  return [document.createTextNode(words.join(""))];
}

/**
 * @param {string[]} titles of the columns, the first of which names the table
 * @param {(Node | string)[][][]} rows each has cells, each of which has contents
 * @returns {Node[]} nothing if there are no rows
 */
function table(titles, rows) {
  if (rows.length === 0) return [];
  const head = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
  const lines = rows.map(([first, ...others]) =>
    element("tr", {}, element("th", { scope: "row" }, ...first), ...others.map((cell) => element("td", {}, ...cell))),
  );
  return [element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines))];
}

/**
 * @param {string} path
 * @param {string} method
 * @param {Part} operation
 */
function operationSection(path, method, operation) {
  const parameters = (operation.parameters ?? []).map((/** @type {Part} */ each) => [
    [each.name],
    [`${each.in}${each.required ? ", required" : ""}`],
    typeOf(each.schema),
    [each.description ?? ""],
  ]);
  const responses = Object.entries(operation.responses ?? {}).map(([status, /** @type {Part} */ response]) => {
    const [media, content] = Object.entries(response.content ?? {})[0] ?? ["", {}];
    const headers = Object.keys(response.headers ?? {}).join(", ");
    return [[status], [response.description ?? ""], media === "application/json" ? typeOf(content.schema) : [media], [headers]];
  });
  return element(
    "section",
    { id: operation.operationId ?? path },
    element("h2", {}, element("span", { class: "method" }, method.toUpperCase()), element("code", {}, path)),
    element("p", {}, operation.description ?? operation.summary ?? ""),
    ...table(["Parameter", "In", "Type", "Meaning"], parameters),
    ...table(["Response", "Meaning", "Body", "Headers"], responses),
  );
}

/**
 * @param {string} name
 * @param {Part} schema
 */
function schemaSection(name, schema) {
  const members = Object.entries(schema.properties ?? {}).map(([member, type]) => [
    [member],
    typeOf(type),
    [schema.required?.includes(member) ? "always there" : ""],
    [type.description ?? ""],
  ]);
  const text = schema.description ? [element("p", {}, schema.description)] : [];
  return element("section", { id: name }, element("h2", {}, element("code", {}, name)), ...text, ...table(["Member", "Type", "Presence", "Meaning"], members));
}

try {
  const response = await fetch("/schema/openapi.json");
  if (!response.ok) throw new Error(`the service has answered with status ${response.status}`);
  const api = await response.json();
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => operationSection(path, method, operation)),
  );
  const schemas = Object.entries(api.components?.schemas ?? {}).map(([name, schema]) => schemaSection(name, schema));
  const links = [...operations, ...schemas].map((section) =>
    element("div", {}, element("a", { href: `#${section.id}` }, section.querySelector("code")?.textContent ?? "")),
  );
  main.append(
    element("p", {}, `${api.info.description} Version ${api.info.version}. Send an API key or a job token in the header `,
      element("code", {}, "Authorization"), ". The same as ", element("a", { href: "/schema/openapi.json" }, "openapi.json"), "."),
    element("nav", { "aria-label": "Contents" }, ...links),
    ...operations,
    ...schemas,
  );
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  main.append(element("p", { role: "alert" }, `The documentation can't be shown: ${error instanceof Error ? error.message : error}.`));
}
