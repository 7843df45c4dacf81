/* Starts Swagger UI on the server's own description. Knows no route. */

SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, docExpansion: "list",
  validatorUrl: null }); // the badge would ask a server elsewhere
